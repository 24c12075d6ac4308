"""The loss of a run: labels, smoothed if asked for, and a teacher's logits."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitplane.train.config import RecipeConfig


@dataclass(frozen=True)
class Loss:
    """Cross-entropy with labels, and T^2 KL(teacher || student) of softened logits (Hinton et al., 2015).

    Attributes:
        recipe: weights of the parts.
        teacher: network in eval mode, or None.
    """

    recipe: RecipeConfig
    teacher: nn.Module | None

    def __call__(self, logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """The mean over a batch.

        Args:
            logits: float [N, classes], of the student.
            images: uint8 [N, C, H, W], for the teacher.
            labels: int64 [N].

        Returns:
            Float32 scalar.
        """
        logits = logits.float()
        hard = functional.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        if self.teacher is None:
            return hard
        with torch.no_grad():
            target = functional.log_softmax(self.teacher(images).float() / self.recipe.temperature, 1)
        mine = functional.log_softmax(logits / self.recipe.temperature, 1)
        soft = functional.kl_div(mine, target, reduction="batchmean", log_target=True) * self.recipe.temperature**2
        return torch.lerp(hard, soft, self.recipe.distillation)
