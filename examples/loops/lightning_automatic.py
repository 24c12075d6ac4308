"""Lightning, automatic optimization: it calls `optimizer.step(closure)`. Five lines are ours: those that say `bitplane`."""

import lightning
import torch
from digits import EPOCHS, PARTS, images, labels, network, run
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import bitplane


class Digits(lightning.LightningModule):
    """The network and its training."""

    def __init__(self):
        super().__init__()
        self.network = network()
        bitplane.prepare(self.network, weights="ternary", activations=4)

    def training_step(self, batch, index):
        x, y = batch
        return cross_entropy(self.network(x), y)

    def configure_optimizers(self):
        base = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        steps = self.trainer.estimated_stepping_batches
        optimizer = bitplane.ProxOptimizer(base, self, method="pc", steps=steps)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


module = Digits()
trainer = lightning.Trainer(accelerator="cpu", max_epochs=EPOCHS, accumulate_grad_batches=PARTS, gradient_clip_val=1.0)
trainer.fit(module, DataLoader(TensorDataset(images, labels), batch_size=32))
bitplane.finish(module, trainer.optimizers[0])
bitplane.to_onnx(module.network.eval(), images, "digits.onnx", force=True)
run("digits.onnx")
