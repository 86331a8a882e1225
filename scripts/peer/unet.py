"""`ddpm_jax.nets.unet.UNet` in PyTorch, for a batch [b, c, h, w].

The same layers under the same names, so that the same weights give the same output (to 1e-4 on a CPU).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResBlock(nn.Module):
    """Two 3x3 convolutions around a residual; the embedding scales and shifts the second normalisation."""

    def __init__(self, before: int, after: int, embedding: int, groups: int) -> None:
        super().__init__()
        self.norm_in, self.norm_out = nn.GroupNorm(groups, before), nn.GroupNorm(groups, after)
        self.conv_in = nn.Conv2d(before, after, 3, padding=1)
        self.conv_out = nn.Conv2d(after, after, 3, padding=1)
        self.scale_shift = nn.Linear(embedding, 2 * after)
        self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.scale_shift(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv_in(F.silu(self.norm_in(x)))
        h = self.conv_out(F.silu(self.norm_out(h) * (1 + scale) + shift))
        return self.skip(x) + h


class SelfAttention(nn.Module):
    """Multi-head self-attention over the pixels, residual."""

    def __init__(self, channels: int, groups: int, head: int) -> None:
        super().__init__()
        self.heads = max(1, channels // head)
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [b, n, c]
        qkv = self.qkv(tokens).reshape(b, h * w, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv).transpose(1, 2).reshape(b, h * w, c)
        return x + self.out(mixed).transpose(1, 2).reshape(b, c, h, w)


class UNet(nn.Module):
    """`ddpm_jax.nets.unet.UNet` for a batch [b, c, h, w]; `fields` are that net's."""

    def __init__(self, fields: dict[str, Any], *, size: int, colours: int, words: int) -> None:
        super().__init__()
        self.f, c = fields, fields["channels"]
        widths = [c * m for m in fields["multipliers"]]
        groups, stem, maps = fields["groups"], fields["stem"], fields["word_maps"] if words else 0
        self.time_in, self.embedding = nn.Linear(2 * c, 4 * c), nn.Linear(4 * c, 4 * c)
        self.label_in = nn.Linear(2 * words, 4 * c) if words else None
        if maps:
            shape = (2 * words, maps, size // stem, size // stem)
            self.word_maps = nn.Parameter(torch.zeros(shape))  # present, then absent
        self.stem = nn.Conv2d(stem**2 * colours + maps, c, 3, padding=1)
        self.blocks, before, skips = nn.ModuleDict(), c, []

        def add(name: str, before: int, after: int, level: int) -> int:
            self.blocks[name] = ResBlock(before, after, 4 * c, groups)
            if size // stem // 2**level in fields["attention"]:
                self.blocks[f"{name}_attention"] = SelfAttention(after, groups, fields["attention_head"])
            return after

        for level, width in enumerate(widths):
            if level:
                self.blocks[f"down_{level}"] = nn.Conv2d(before, width, 2, stride=2)
                before = width
            for i in range(fields["blocks"]):
                before = add(f"down_{level}_{i}", before, width, level)
                skips.append(before)
        before = add("middle", before, before, len(widths) - 1)
        for level in reversed(range(len(widths))):
            for i in range(fields["blocks"]):
                before = add(f"up_{level}_{i}", before + skips.pop(), widths[level], level)
            if level:
                self.blocks[f"up_{level}"] = nn.Conv2d(before, 4 * widths[level - 1], 1)
                before = widths[level - 1]
        self.norm_out = nn.GroupNorm(groups, before)
        head = fields["head_channels"]
        self.out = nn.Conv2d(before, stem**2 * (head or fields["out_channels"]), 3, padding=1)
        self.classify = nn.Conv2d(head, fields["out_channels"], 1, bias=False) if head else nn.Identity()
        self.register_buffer("frequencies", torch.tensor(np.geomspace(1.0, 1000.0, c), dtype=torch.float32))

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies
        vector = self.time_in(torch.cat([angles.sin(), angles.cos()], dim=1))
        x = F.pixel_unshuffle(x, self.f["stem"])
        if self.label_in is not None:
            states = torch.cat([label > 0, label < 0], dim=1).float()
            vector = vector + self.label_in(states)
            if self.f["word_maps"]:
                maps = (states @ self.word_maps.flatten(1)).view(-1, *self.word_maps.shape[1:])
                x = torch.cat([x, maps], dim=1)
        embedding = F.silu(self.embedding(F.silu(vector)))
        x, skips, levels = self.stem(x), [], range(len(self.f["multipliers"]))
        for level in levels:
            if level:
                x = self.blocks[f"down_{level}"](x)
            for i in range(self.f["blocks"]):
                x = self.block(f"down_{level}_{i}", x, embedding)
                skips.append(x)
        x = self.block("middle", x, embedding)
        for level in reversed(levels):
            for i in range(self.f["blocks"]):
                x = self.block(f"up_{level}_{i}", torch.cat([x, skips.pop()], dim=1), embedding)
            if level:
                x = F.pixel_shuffle(self.blocks[f"up_{level}"](x), 2)
        x = F.pixel_shuffle(self.out(F.silu(self.norm_out(x))), self.f["stem"])
        return self.classify(x)

    def block(self, name: str, x: Tensor, embedding: Tensor) -> Tensor:
        x = self.blocks[name](x, embedding)
        return self.blocks[f"{name}_attention"](x) if f"{name}_attention" in self.blocks else x

    @torch.no_grad()
    def carry_over(self, theirs: dict[str, np.ndarray], colours: int) -> None:
        """Take the weights of our net, by name ("down_0_0/conv_in/kernel")."""
        if self.f["word_maps"] and self.label_in is not None:
            both = np.concatenate([theirs["word_maps/present"], theirs["word_maps/absent"]])
            self.word_maps.copy_(torch.tensor(both.transpose(0, 3, 1, 2)))
        named = {**dict(self.blocks.named_modules()), **dict(self.named_modules())}
        for name, module in named.items():
            key = name.removeprefix("blocks.").replace(".", "/")
            if isinstance(module, nn.GroupNorm):
                module.weight.copy_(torch.tensor(theirs[f"{key}/scale"]))
                module.bias.copy_(torch.tensor(theirs[f"{key}/bias"]))
            elif isinstance(module, nn.Conv2d | nn.Linear):
                self.carry_kernel(key, module, theirs, colours)

    def carry_kernel(self, key: str, module: Any, theirs: dict[str, np.ndarray], colours: int) -> None:
        kernel, bias, r = theirs[f"{key}/kernel"], theirs.get(f"{key}/bias"), self.f["stem"]
        if isinstance(module, nn.Linear):
            kernel = kernel.reshape(module.in_features, module.out_features).T
        elif kernel.ndim == 2:  # a product over [2, 2, c], or over one pixel
            size = module.kernel_size[0]
            kernel = kernel.reshape(size, size, -1, kernel.shape[1]).transpose(3, 2, 0, 1)
        else:
            kernel = kernel.transpose(3, 2, 0, 1)
        if key == "stem":  # pixel_unshuffle puts the colour first, ours the place
            patch = kernel[:, : r * r * colours].reshape(len(kernel), r * r, colours, 3, 3)
            kernel = np.concatenate(
                [patch.swapaxes(1, 2).reshape(len(kernel), -1, 3, 3), kernel[:, r * r * colours :]], 1
            )
        if key == "out" or (key.count("_") == 1 and key.startswith("up")):  # and so does pixel_shuffle
            r = r if key == "out" else 2
            kernel = kernel.reshape(r * r, -1, *kernel.shape[1:]).swapaxes(0, 1).reshape(kernel.shape)
            bias = bias.reshape(r * r, -1).T.reshape(-1)
        module.weight.copy_(torch.tensor(np.ascontiguousarray(kernel)))
        if bias is not None:
            module.bias.copy_(torch.tensor(np.ascontiguousarray(bias).reshape(-1)))
