"""DistributedDataParallel: `torchrun --nproc-per-node 2 distributed.py`. Five lines are ours: those that say `bitplane`."""

import torch
import torch.distributed as dist
from digits import EPOCHS, batches, images, network, run
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import bitplane

dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
model = network()
bitplane.prepare(model, weights="ternary", activations=4)
parallel = DistributedDataParallel(model)
base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
optimizer = bitplane.ProxOptimizer(base, model, method="pc", steps=EPOCHS * len(batches))

for _ in range(EPOCHS):
    for x, y in batches:
        loss = cross_entropy(parallel(x[rank::size]), y[rank::size])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

bitplane.finish(model, optimizer)
if rank == 0:
    bitplane.to_onnx(model.eval(), images, "digits.onnx", force=True)
    run("digits.onnx")
dist.destroy_process_group()
