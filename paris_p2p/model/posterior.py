"""Asks a router which expert a clip belongs to: all that routes or measures asks it here.

Legend: B clips, C T H W latents, P pooled width, F feature width, K experts. t = 1 is noise.
"""

from __future__ import annotations

from torch import Tensor

from paris_p2p.model.plain_router import PlainRouter


def posterior_logits(
    router: PlainRouter, x_t: Tensor, t: Tensor, pooled: Tensor | None, first: Tensor | None = None
) -> Tensor:
    """Returns log p(k | x_t, caption, picture) up to a constant, in float32: x_t [B C T H W], t [B], pooled
    [B P] or None for no caption, first [B F] or None -> [B K].

    A calibrated router is calibrated (model/calibration.py), which takes one answer more, of two tokens.
    Without a caption there is nothing that the latent could disturb, and it answers as it was trained.
    """
    both: Tensor = router(x_t, t, pooled, first).float()
    if router.calibration is None or pooled is None:
        return both
    return router.calibration.mix(start_logits(router, pooled, first), both, t)


def start_logits(router: PlainRouter, pooled: Tensor, first: Tensor | None = None) -> Tensor:
    """Returns log p(k | caption, picture) up to a constant, in float32: pooled [B P], first [B F] or None ->
    [B K].

    It is the posterior at t = 1, where the latent is noise alone and says nothing: the router is asked
    without it, as a tenth of its training was, and not disturbed by it.
    """
    answered: Tensor = router(None, None, pooled, first)
    return answered.float()
