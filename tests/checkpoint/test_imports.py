"""What loading a model must not import: torch's compiler takes longer than everything else."""

import subprocess
import sys


def test_loading_a_model_imports_no_compiler(tiny_run, tiny_gpt2_run):
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from minitx.config import SamplingConfig\n"
        "from minitx.workflows.load import load\n"
        "for run in sys.argv[1:]:\n"
        "    model = load(Path(run))\n"
        "    model.sample(['1 green'], SamplingConfig(max_new_tokens=3))\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program, str(tiny_run), str(tiny_gpt2_run)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
