"""The course: its chapters, the order of its exercises, its milestones and questions."""

from __future__ import annotations

from dataclasses import dataclass

from minitx.learn.exercise import Exercise, read_exercise


@dataclass(frozen=True)
class Chapter:
    """Exercises that lead to a milestone.

    Attributes:
        milestone: what is reached when all have passed.
        names: of the exercises, in order.
        questions: as in an interview, and the command that shows the answer to each.
        lessons: pages of `docs/learn/` to read first.
    """

    milestone: str
    names: tuple[str, ...]
    questions: dict[str, str]
    lessons: tuple[str, ...]

    @property
    def exercises(self) -> tuple[Exercise, ...]:
        """In order."""
        return tuple(map(read_exercise, self.names))


CHAPTERS = (
    Chapter(
        "tokenizer works",
        ("count_pairs", "learn_merges", "encode_text"),
        {
            "Why pieces of words, and not characters or words?":
                "minitx tokenize corpus.txt --kind bpe --vocab-size 300",
            "How do you compare models whose tokenizers differ?": "minitx eval --quick",
        },
        ("tokens",),
    ),
    Chapter(
        "model runs",
        ("embed_tokens", "scaled_scores", "causal_weights", "one_head", "several_heads",
         "rotary_positions", "gated_mlp", "rms_norm", "attention_layer", "residual_block",
         "whole_model"),
        {
            "Why a mask, and how do you prove that it does not leak?": "minitx attn --check-mask",
            "Why several heads?": "minitx attn --roles",
            "What does each layer add to the stream?": "minitx attn --prompt 'To be' --lens",
        },
        ("attention", "masking", "cost", "positions"),
    ),
    Chapter(
        "model learns",
        ("next_token_loss", "training_step", "warmup_and_decay"),
        {
            "What should the first loss be, and what does a spike look like?":
                "minitx train corpus.txt --steps 200",
            "How do you tell over- from underfitting?": "minitx diagnose",
        },
        ("training", "fit", "wrong"),
    ),
    Chapter(
        "text is coherent",
        ("top_k", "top_p", "generate_tokens", "key_value_cache"),
        {
            "What does a low temperature do to the distribution?":
                "minitx generate --prompt 'To be' --temperature 0.5 --show-probs",
            "Why not always take the likeliest token?":
                "minitx generate --prompt 'To be' --temperature 0",
        },
        ("sampling",),
    ),
    Chapter(
        "attention is visible",
        ("attention_map", "induction_head"),
        {
            "What does one head look at?":
                "minitx attn --prompt 'To be or not to be' --layer 0 --head 0 --png map.png",
            "Is a weight an explanation?": "minitx attn --prompt 'To be or not to be' --norms",
        },
        ("induction", "questions"),
    ),
)  # fmt: skip

EXERCISES = tuple(name for chapter in CHAPTERS for name in chapter.names)
