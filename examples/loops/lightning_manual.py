"""Lightning, manual optimization. Five lines are ours: those that say `bitplane`."""

import lightning
import torch
from digits import EPOCHS, PARTS, STEPS, images, labels, network, run
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import bitplane


class Digits(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.network = network()
        bitplane.prepare(self.network, weights="ternary", activations=4)

    def configure_optimizers(self):
        base = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        optimizer = bitplane.ProxOptimizer(base, self, method="pc", steps=STEPS)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)]

    def training_step(self, batch, index):
        x, y = batch
        optimizer = self.optimizers()
        self.manual_backward(cross_entropy(self.network(x), y) / PARTS)
        if (index + 1) % PARTS == 0:
            self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
            optimizer.step()
            self.lr_schedulers().step()
            optimizer.zero_grad()


module, trainer = Digits(), lightning.Trainer(accelerator="cpu", max_epochs=EPOCHS)
trainer.fit(module, DataLoader(TensorDataset(images, labels), batch_size=32))
bitplane.finish(module, module.optimizers())
bitplane.to_onnx(module.network.eval(), images, "digits.onnx", force=True)
run("digits.onnx")
