"""Started by torchrun: a sharded model beside a plain one, in float64, for several shapes."""

import copy
import datetime
import os
from types import SimpleNamespace

import torch
from torch import distributed

from minitx.compute import Compute
from minitx.config import ModelConfig, TrainConfig
from minitx.model import Transformer
from minitx.training.gradients import StepGradients
from minitx.training.optimizers import make_optimizer
from minitx.training.sharding import Shards
from minitx.training.team import _JoinedTeam, rows_of

torch.set_default_dtype(torch.float64)
distributed.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
RANK, SIZE = distributed.get_rank(), distributed.get_world_size()
TEAM = _JoinedTeam(SimpleNamespace(in_joint_pass=False))
CPU = Compute(torch.device("cpu"), torch.float32)

SHAPES = [
    # Rows that no number of processes divides, and fewer rows than processes.
    {"vocab_size": 31, "d_model": 18, "d_ff": 21, "n_heads": 3, "n_kv_heads": 1, "head_dim": 6},
    {"vocab_size": 7, "d_model": 10, "d_ff": 3, "n_heads": 1, "n_kv_heads": 1, "head_dim": 2,
     "tie_embeddings": False},
    {"vocab_size": 29, "d_model": 12, "d_ff": 20, "n_heads": 2, "n_kv_heads": 2, "head_dim": 6,
     "architecture": "gpt2"},
]  # fmt: skip


class Given(list):
    """Batches that are at hand, all of whose ids are targets."""

    answers = None


def batches(config):
    """Of three steps, three passes each, of two windows."""
    ids = torch.randint(config.vocab_size, (9, 2, 9), generator=torch.Generator().manual_seed(7))
    return Given((some[:, :-1], some[:, 1:]) for some in ids)


for shape in SHAPES:
    for optimizer in ("adamw", "muon"):
        config = ModelConfig(context_length=8, n_layers=2, **shape)
        train = TrainConfig(
            steps=9, batch_size=2, accumulation=3, learning_rate=0.01, grad_clip=0.1,
            optimizer=optimizer, engine="plain",
        )  # fmt: skip
        torch.manual_seed(3)
        plain = Transformer(config)
        before = {name: p.detach().clone() for name, p in plain.named_parameters()}
        shards = Shards(copy.deepcopy(plain), CPU, TEAM)

        # Each process has its share, in memory of that size.
        for name, rows in shards.rows.named_parameters():
            own = rows_of(len(before[name]), RANK, SIZE)
            assert rows.equal(before[name][own]), name
            most = -(-len(before[name]) // SIZE) * before[name][:1].numel()
            assert rows.untyped_storage().nbytes() <= 8 * most, name
        held = sum(p.numel() for p in shards.rows.parameters())
        assert held <= config.n_parameters / SIZE + sum(
            len(b[:1].flatten()) for b in before.values()
        )

        def whole(tensors, shards=shards):
            gathered = shards.gather(tensors)
            assert bool(gathered) == (RANK == 0)
            return gathered

        for name, tensor in whole(dict(shards.rows.named_parameters())).items():
            assert tensor.equal(before[name]), name

        makers = (plain, shards.rows)
        its, mine = (make_optimizer(model, train, torch.float64) for model in makers)
        mine.team, mine.has_rows = TEAM, True
        steps = (
            StepGradients(plain, batches(config), train, CPU),
            StepGradients(shards.trained, batches(config), train, CPU, TEAM, shards),
        )
        for number in range(3):
            loss, part = (step(number) for step in steps)
            torch.testing.assert_close(TEAM.add_up(part), loss, rtol=1e-7, atol=0.0)
            gradients = {name: p.grad for name, p in plain.named_parameters()}
            found = {name: p.grad for name, p in shards.rows.named_parameters()}
            for name, gradient in whole(found).items():
                # Later ones follow from updates, in which AdamW brings tiny gradients up.
                near = {"rtol": 1e-5, "atol": 1e-7} if number else {"rtol": 1e-9, "atol": 1e-13}
                torch.testing.assert_close(gradient, gradients[name], **near)
            norm, norms = its.clip_gradients()
            own_norm, own_norms = mine.clip_gradients()
            torch.testing.assert_close(own_norm, norm, rtol=1e-7, atol=0.0)
            torch.testing.assert_close(own_norms, norms, rtol=1e-6, atol=1e-9)
            its.update(1.0)
            mine.update(1.0)
        after = dict(plain.named_parameters())
        for name, tensor in whole(dict(shards.rows.named_parameters())).items():
            assert not tensor.equal(before[name]), name
            torch.testing.assert_close(tensor, after[name].detach(), rtol=1e-6, atol=1e-8)
        state = whole(mine.state_tensors())
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, its.state_tensors()[name], rtol=1e-6, atol=1e-9)
        # What was gathered is cut to what it was gathered from, to the bit.
        told = [state]
        distributed.broadcast_object_list(told)
        for name, tensor in mine.state_tensors().items():
            own = shards.own_rows(name)
            assert tensor.equal(told[0][name][own] if tensor.dim() else told[0][name]), name
        with shards.gathered() as is_here:
            assert is_here == (RANK == 0)
            if is_here:
                ids = torch.arange(5)[None] % config.vocab_size
                torch.testing.assert_close(shards.whole(ids), plain(ids), rtol=1e-6, atol=1e-7)
        assert all(p.is_meta for p in shards.whole.parameters())

# In other formats, where blocks are gathered in them: near the plain model, and the same to the bit
# where they are computed again.
torch.set_default_dtype(torch.float32)
for dtype, scale in ((torch.bfloat16, 1.0), (torch.float16, 1024.0)):
    for shape in SHAPES:
        # Where passes are divided, dropout's masks are others.
        dropout = 0.1 if SIZE <= 3 else 0.0
        config = ModelConfig(context_length=8, n_layers=2, dropout=dropout, **shape)
        compute, found = Compute(torch.device("cpu"), dtype), []
        for recompute in (False, True):
            train = TrainConfig(
                steps=9, batch_size=2, accumulation=3, learning_rate=0.01, engine="plain",
                recompute=recompute,
            )  # fmt: skip
            torch.manual_seed(3)
            plain = Transformer(config)
            shards = Shards(copy.deepcopy(plain), compute, TEAM)
            parts = (plain, batches(config), train, compute)
            loss = StepGradients(*parts)(0, scale)
            part = StepGradients(shards.trained, *parts[1:], TEAM, shards)(0, scale)
            torch.testing.assert_close(TEAM.add_up(part), loss, rtol=1e-2, atol=0.0)
            gradients = {name: p.grad for name, p in shards.rows.named_parameters()}
            assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
            found.append(shards.gather(gradients))
            for name, gradient in found[0].items():
                wanted = dict(plain.named_parameters())[name].grad
                apart = torch.linalg.vector_norm(gradient - wanted)
                assert apart < 0.05 * torch.linalg.vector_norm(wanted), (dtype, name)
        assert all(gradient.equal(found[1][name]) for name, gradient in found[0].items())
distributed.destroy_process_group()
# As a process of minitx leaves (`__main__`): gloo's threads do not outlive the interpreter's end.
os._exit(0)
