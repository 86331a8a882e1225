"""The peer that `scripts/benchmark.py` times beside this project: the same work in PyTorch.

It runs in an environment of its own (`make benchmark` makes it) and imports nothing of ddpm_jax. Requests and answers
are lines of JSON on stdin and stdout, as those of `ddpm_jax/speed.py` are; the first line says what to make.
"""

import itertools
import json
import math
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from unet import UNet

FORMS = {  # name -> (memory format, arguments of torch.compile, or None)
    "eager": (torch.contiguous_format, None),
    "channels_last": (torch.channels_last, None),
    "compile": (torch.contiguous_format, {}),
    "compile_channels_last": (torch.channels_last, {}),
    "cuda_graphs": (torch.channels_last, {"mode": "reduce-overhead"}),
}


class Peer:
    """The net with its data and optimizer, in one form and precision, on one device ("cpu" or "cuda")."""

    def __init__(self, spec: str, form: str, dtype: str, device: str, dispatch: int) -> None:
        if (
            device == "cuda"
        ):  # what XLA does unasked: TensorFloat-32 products, and the fastest convolution of each shape
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
        arrays = np.load(spec)
        about = json.loads(str(arrays["about"]))
        self.layout, how = FORMS[form]
        self.device, self.batch, self.about = torch.device(device), about["batch"], {**about, "dispatch": dispatch}
        self.dtype = torch.bfloat16 if dtype == "bfloat16" else None
        on_device = {key: torch.tensor(arrays[key], device=device) for key in ("images", "labels", "palette", "t")}
        self.images, self.labels, self.palette, self.t = on_device.values()
        self.indexed = len(self.palette) > 0
        self.x = torch.tensor(arrays["x"], device=device).permute(0, 3, 1, 2).contiguous(memory_format=self.layout)
        net = UNet(about["net"], size=about["size"], colours=about["colours"], words=about["words"])
        net.carry_over({key[7:]: arrays[key] for key in arrays.files if key.startswith("params/")}, about["colours"])
        self.net = net.to(device).to(memory_format=self.layout)
        self.parameters = list(self.net.parameters())
        self.ema = [p.detach().clone() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
        wrap: Callable[..., Any] = (lambda function: function) if how is None else torch.compile(**how)
        self.loss, self.predict, self.denoise = map(wrap, (self._loss, self._predict, self._denoise))
        self.seen = 0

    def data(self) -> tuple[Tensor, Tensor, Tensor]:
        """A batch of an endless shuffle, its labels with masks, and stratified times."""
        n, b = len(self.images), self.batch
        if self.seen % (n // b) == 0:
            self.order = torch.randperm(n, device=self.device)
        first = self.seen % (n // b) * b
        index, self.seen = self.order[first : first + b], self.seen + 1
        shown = torch.rand(b, 1, device=self.device) > 0.1
        some = torch.rand(b, self.labels.shape[1], device=self.device) > torch.rand(b, 1, device=self.device) * 0.1
        t = 1 - (torch.randperm(b, device=self.device) + torch.rand(b, device=self.device)) / b
        return self.images[index], self.labels[index] * (shown & some), t

    def train_step(self) -> Tensor:
        """Loss, gradient, clipping, AdamW and the average of the parameters, of one batch."""
        loss = self.loss(*self.data())
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self.parameters, 1e-3)
        return loss.detach()

    @torch.inference_mode()
    def forward(self) -> Tensor:
        """The net's answer for a batch."""
        return self.predict(self.x, self.t, self.labels[: self.batch])

    @torch.inference_mode()
    def sample(self) -> Tensor:
        """A batch of pictures by deterministic steps (DDIM) under guidance, as bytes on the host."""
        x, label = torch.randn_like(self.x), self.labels[: self.batch]
        times = np.linspace(1, 0, self.about["steps"] + 1)
        for t, s in itertools.pairwise(times):
            x_0 = self.denoise(x, torch.full_like(self.t, t), label).clamp(-1, 1)
            eps = (x - math.cos(t * math.pi / 2) * x_0) / math.sin(t * math.pi / 2)
            x = math.cos(s * math.pi / 2) * x_0 + math.sin(s * math.pi / 2) * eps
        return ((x + 1) * 127.5).round().to(torch.uint8).cpu()

    def _predict(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            return self.net(x, t, label).float()

    def _loss(self, data: Tensor, label: Tensor, t: Tensor) -> Tensor:
        """Cross-entropy of the palette's colours, or the squared error of the noise."""
        colours = self.palette[data.long()] if self.indexed else data.float() / 127.5 - 1  # [b, h, w, c]
        x_0 = colours.permute(0, 3, 1, 2).contiguous(memory_format=self.layout)
        eps, alpha, sigma = torch.randn_like(x_0), *_noise(t)
        raw = self._predict(alpha * x_0 + sigma * eps, t, label)
        return F.cross_entropy(raw, data.long()) if self.indexed else F.mse_loss(raw, eps)

    def _denoise(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """x_0 under guidance: both predictions in one batch."""
        raw = self._predict(torch.cat([x, x]), torch.cat([t, t]), torch.cat([torch.zeros_like(label), label]))
        without, given = raw.chunk(2)
        raw = without + self.about["guidance"] * (given - without)
        if self.indexed:
            return torch.einsum("bkhw,kc->bchw", raw.softmax(1), self.palette)
        alpha, sigma = _noise(t)
        return (x - sigma * raw) / alpha.clamp(min=1e-3)

    def timed(self, what: str, count: int) -> list[float]:
        """Seconds of each of `count` runs, to the end of all work on the device; a dispatch's are its steps' mean."""
        run, seconds, steps = getattr(self, what), [], self.about["dispatch"] if what == "train_step" else 1
        for _ in range(count):
            began = time.perf_counter()
            for _ in range(steps):
                run()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append((time.perf_counter() - began) / steps)
        return seconds


def _noise(t: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise of the cosine schedule, [b, 1, 1, 1]."""
    angle = t[:, None, None, None] * (math.pi / 2)
    return angle.cos(), angle.sin()


def answer(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    """Do what a request asks and return the figures."""
    if request["do"] == "outputs":
        np.save(request["to"], peer.forward().permute(0, 2, 3, 1).float().cpu().numpy())
        return {}
    seconds = peer.timed(request["do"], request["count"])
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    on_gpu = peer.device.type == "cuda"
    return {"seconds": seconds, "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else kib * 1024}


def main() -> None:
    """Answer requests until stdin ends."""
    out, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    peer = Peer(**json.loads(sys.stdin.readline()))
    about = {"version": f"PyTorch {torch.__version__}", "threads": torch.get_num_threads()}
    print(json.dumps(about), file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(peer, json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    main()
