"""JumpReLU and its step with straight-through thresholds, densely in float64, as Rajamanoharan et al. 2024 (arXiv:2407.14435) write them."""

import torch


class JumpReLU(torch.autograd.Function):
    """h [h > theta] with the pseudo-derivative -(theta / eps) rect((h - theta) / eps) for theta."""

    @staticmethod
    def forward(ctx, h, theta, eps):
        ctx.save_for_backward(h, theta)
        ctx.eps = eps
        return h * (h > theta)

    @staticmethod
    def backward(ctx, upstream):
        h, theta = ctx.saved_tensors
        window = ((h - theta).abs() < ctx.eps / 2).double()
        return upstream * (h > theta), (-theta / ctx.eps * window * upstream).sum(0), None


class Step(torch.autograd.Function):
    """[h > theta] with the pseudo-derivative -(1 / eps) rect((h - theta) / eps) for theta."""

    @staticmethod
    def forward(ctx, h, theta, eps):
        ctx.save_for_backward(h, theta)
        ctx.eps = eps
        return (h > theta).double()

    @staticmethod
    def backward(ctx, upstream):
        h, theta = ctx.saved_tensors
        window = ((h - theta).abs() < ctx.eps / 2).double()
        return None, (-1 / ctx.eps * window * upstream).sum(0), None
