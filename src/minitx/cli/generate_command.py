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
        from minitx.report.generation_screen import GenerationScreen
        from minitx.workflows.generate import prompts_of
        from minitx.workflows.load import load

    model = load(run, how.checkpoint, how.device, how.dtype, how.quantize)
    prompts = prompts_of(request, sys.stdin)
    screen = GenerationScreen(model, sys.stdout)
    if request.interactive:
        from minitx.report.generation_prompt import ask_for_prompts

        ask_for_prompts(model, screen, sampling, request.show_probs)
    elif request.beams:
        screen.beams(prompts, request.beams, sampling.max_new_tokens, request.as_json)
    elif request.as_json:
        screen.json_lines(prompts, sampling)
    elif request.show_probs:
        screen.probabilities(prompts[0], sampling)
    else:
        screen.text(prompts[0], sampling)
