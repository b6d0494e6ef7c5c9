"""Tests what routers are asked, and with what."""

import pytest
import torch

from paris_p2p.model.posterior import posterior_logits, start_logits
from tests.model.test_router import some, with_first


def test_a_posterior_is_the_routers_own_answer_until_it_is_calibrated(router):
    x, t, pooled = some()
    assert torch.equal(posterior_logits(router, x, t, pooled), router(x, t, pooled))
    assert torch.equal(posterior_logits(router, x, t, None), router(x, t, None))


def test_at_the_start_the_caption_and_the_picture_decide_alone(router):
    pooled, first = some()[2], torch.randn(3, 7)
    assert torch.equal(start_logits(router, pooled), router(None, None, pooled))
    looking = with_first()
    torch.nn.init.normal_(looking.out.weight)
    torch.nn.init.normal_(looking.first_in.weight)
    logits = start_logits(looking, pooled, first)
    assert logits.dtype == torch.float32
    assert not torch.allclose(logits, start_logits(looking, pooled, first.flip(0)))


def test_at_the_start_there_must_be_a_caption(router):
    with pytest.raises(ValueError, match="needs a latent, a time or a caption"):
        start_logits(router, None)
