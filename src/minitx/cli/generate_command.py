"""`minitx generate`: let a model continue a text."""

from __future__ import annotations

import sys
from typing import Any

from minitx.cli import many_imports
from minitx.cli.flags import Run, takes
from minitx.config import GenerationRequest, LoadConfig, SamplingConfig


@takes(SamplingConfig, GenerationRequest, LoadConfig)
def generate(run: Run = None, **options: Any) -> None:
    """Continue a text with a trained model; the same seed gives the same text."""
    from minitx.config.overrides import config_from_options

    sampling = config_from_options(SamplingConfig, options)
    request = config_from_options(GenerationRequest, options, sampling=sampling)
    how = config_from_options(LoadConfig, options)
    with many_imports():
        from minitx.report.generation_screen import GenerationScreen, converse
        from minitx.workflows.generate import in_batches, prompts_of, refuse_text
        from minitx.workflows.interactive import Conversation, continue_text
        from minitx.workflows.load import load, say_used

    refuse_text(run)
    model = load(run, how.checkpoint, how.device, how.dtype, how.quantize)
    prompts = prompts_of(request, sys.stdin)
    screen = GenerationScreen(sys.stdout)
    # A person knows before the first word; for a program an error, or a text, stands alone.
    if is_watched := request.interactive or sys.stdout.isatty():
        say_used([model.directory])
    if request.interactive:
        converse(Conversation(model, sampling, request.show_probs), screen)
    elif request.beams:
        for prompt in prompts:
            beams = model.beam_search(prompt, request.beams, sampling.max_new_tokens)
            screen.beams(beams, as_json=request.as_json)
    elif request.as_json:
        texts = in_batches(model, prompts, sampling)
        screen.json_lines(texts, len(prompts) * sampling.num_samples, model.tokenizer)
    else:
        said = continue_text(model, prompts[0], sampling, request.show_probs)
        screen.show(prompts[0], said, model.tokenizer)
    if not is_watched:
        say_used([model.directory])
