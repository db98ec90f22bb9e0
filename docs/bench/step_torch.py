"""Seconds of PyTorch for what `glioseg bench step` (or, with --forward, `glioseg bench network`) times: nnU-Net's own
network, loss and optimiser on noise, f32 on the CPU.

    python docs/bench/step_torch.py [--net nnunet|bl-l-gn] [--size 64] [--batch 2] [--runs 3] [--threads 2] [--forward]

Needs nnunetv2 2.8.1 with PyTorch. Run it and glioseg in turn on a quiet machine and compare the ratio.
"""
import argparse
import json
import resource
import time

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--net", default="nnunet", choices=["nnunet", "bl-l-gn"])
parser.add_argument("--size", type=int, default=64)
parser.add_argument("--batch", type=int, default=2)
parser.add_argument("--runs", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--forward", action="store_true")
options = parser.parse_args()
torch.set_num_threads(options.threads)


class Block(nn.Sequential):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__(nn.Conv3d(inputs, outputs, 3, stride, 1), nn.GroupNorm(32, outputs), nn.LeakyReLU(0.01, True))


class Wide(nn.Module):
    """The winner's BL+L+GN: an encoder twice as wide as what a decoder step gives, group norm."""

    def __init__(self):
        super().__init__()
        features = [64, 128, 256, 512, 512, 512]
        self.encoder = nn.ModuleList(
            nn.Sequential(Block(([4] + features)[i], f, 2 if i else 1), Block(f, f)) for i, f in enumerate(features)
        )
        below, self.up, self.decoder, self.heads = features[-1], nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for f in reversed(features[:-1]):
            self.up.append(nn.ConvTranspose3d(below, f, 2, 2, bias=False))
            self.decoder.append(nn.Sequential(Block(2 * f, f), Block(f, f // 2)))
            self.heads.append(nn.Conv3d(f // 2, 3, 1, bias=False))
            below = f // 2

    def forward(self, x):
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        skips.pop()
        heads = []
        for i, (up, step, head) in enumerate(zip(self.up, self.decoder, self.heads)):
            x = step(torch.cat((up(x), skips.pop()), 1))
            if self.training or i + 1 == len(self.heads):
                heads.append(head(x))
        return heads[::-1] if self.training else heads[-1]


if options.net == "nnunet":
    net = PlainConvUNet(
        4, 6, (32, 64, 128, 256, 320, 320), nn.Conv3d, 3, (1, 2, 2, 2, 2, 2), 2, 3, 2, True, nn.InstanceNorm3d,
        {"eps": 1e-5, "affine": True}, None, None, nn.LeakyReLU, {"inplace": True}, not options.forward,
    )
else:
    net = Wide()
noise = np.random.default_rng(0)
x = torch.from_numpy(noise.standard_normal((options.batch, 4) + (options.size,) * 3).astype(np.float32))
heads = 5
weights = np.array([1 / 2**i for i in range(heads - 1)] + [0.0])
loss = DeepSupervisionWrapper(
    DC_and_BCE_loss({}, {"batch_dice": False, "do_bg": True, "smooth": 1e-5, "ddp": False}, dice_class=MemoryEfficientSoftDiceLoss),
    weights / weights.sum(),
)
targets = [
    torch.from_numpy((noise.random((options.batch, 3) + (options.size >> i,) * 3) < 0.2).astype(np.float32)) for i in range(heads)
]
optimiser = torch.optim.SGD(net.parameters(), 0.01, 0.99, weight_decay=3e-5, nesterov=True)


def step():
    if options.forward:
        net.eval()
        with torch.inference_mode():
            net(x)
        return
    optimiser.zero_grad(set_to_none=True)
    loss(net(x), targets).backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 12)
    optimiser.step()


step()
seconds = []
for _ in range(options.runs):
    start = time.perf_counter()
    step()
    seconds.append(time.perf_counter() - start)
print(json.dumps({
    "bench": "PyTorch " + ("forward" if options.forward else "step"),
    "net": options.net,
    "size": options.size,
    "batch": options.batch,
    "threads": options.threads,
    "seconds": round(float(np.median(seconds)), 3),
    "runs": [round(s, 3) for s in seconds],
    "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
}))
