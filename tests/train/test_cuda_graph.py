"""Passes as CUDA graphs; needs a GPU."""

import pytest
import torch

from bitplane.train.config import from_options
from bitplane.train.cuda_graph import GraphedPass
from bitplane.train.losses import Loss
from bitplane.train.models import build_model
from bitplane.train.setup import make_optimizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("activations", [32, 2, 1])
def test_a_replayed_pass_trains_as_the_eager_one_does(activations: int) -> None:
    config = from_options({"weights": "ternary", "activations": activations, "lr": 0.01})
    batches = [(torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8), torch.randint(0, 10, (16,))) for _ in range(4)]

    def run(graphed: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = build_model(config.model).to("cuda", memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        optimizer, loss_of = make_optimizer(model, config, 100), Loss(config.recipe, None)

        def compute(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            loss = loss_of(model(images), images, labels)
            optimizer.zero_grad()
            loss.backward()
            return loss.detach()

        step = GraphedPass(compute, model) if graphed else compute
        losses = []
        for images, labels in batches:
            losses.append(step(images.cuda(), labels.cuda()).clone())
            optimizer.step()
        return [*losses, *(v.float() for v in model.state_dict().values())]

    for expected, got in zip(run(False), run(True), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
