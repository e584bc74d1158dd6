"""The adapter: where it starts, what its snap does, how large it is."""

import numpy as np
import pytest
import torch

from adapter_stage1.compress import StreamingCovariance
from adapter_stage1.config import AdapterConfig, TrainRecipe
from adapter_stage1.model import Adapter, Rows, nearest_rows, num_parameters

V, D, K = 60, 16, 4


@pytest.fixture(scope="module")
def fitted():
    """A table, its PCA, and all rows with their latents."""
    random = np.random.default_rng(0)
    table = (random.standard_normal((V, K)) @ random.standard_normal((K, D)) + 3).astype(np.float32)
    table += 0.3 * random.standard_normal((V, D)).astype(np.float32)
    covariance = StreamingCovariance(D)
    covariance.update(table)
    compressor = covariance.pca().truncated(K)
    latents = torch.from_numpy(compressor.encode(table))
    return compressor, Rows(torch.from_numpy(table), latents)


def adapter_of(fitted, **config):
    compressor, rows = fitted
    torch.manual_seed(0)
    adapter = Adapter(K, D, AdapterConfig(**config))
    decoded = torch.from_numpy(compressor.decode(rows.latents_CK.numpy()))
    adapter.start_from(compressor, rows.latents_CK, float((decoded - rows.embeddings_CD).square().sum(1).mean()))
    return adapter, decoded


def test_it_starts_as_the_compressors_decoder(fitted):
    adapter, decoded = adapter_of(fitted)
    rebuilt = adapter.rebuild(fitted[1].latents_CK)
    torch.testing.assert_close(rebuilt, decoded, rtol=1e-5, atol=1e-5)


def test_without_a_snap_what_is_rebuilt_comes_out(fitted):
    adapter, _ = adapter_of(fitted, snap="none")
    latents = fitted[1].latents_CK
    assert torch.equal(adapter(latents, fitted[1]), adapter.rebuild(latents))
    assert not adapter.log_sharpness.requires_grad


def test_a_sharp_snap_gives_the_nearest_row_itself(fitted):
    adapter, decoded = adapter_of(fitted)
    rows = fitted[1]
    with torch.no_grad():
        adapter.log_sharpness.fill_(1.2)
    nearest = torch.cdist(decoded.double(), rows.embeddings_CD.double()).argmin(1)
    assert torch.equal(nearest_rows(decoded, rows.embeddings_CD), nearest)
    by_latent = adapter(rows.latents_CK, rows)  # the latents are the rows' own, so each finds itself
    torch.testing.assert_close(by_latent, rows.embeddings_CD)


def test_a_soft_snap_is_the_mean_of_rows_under_gaussian_noise(fitted):
    adapter, decoded = adapter_of(fitted)
    rows = fitted[1]
    with torch.no_grad():
        adapter.log_sharpness.copy_(torch.tensor([0.05, -0.1]))
    s, t = (10 * adapter.log_sharpness.detach().double()).exp()
    for n in (0, 7):
        to_rows = (decoded[n].double() - rows.embeddings_CD).square().sum(1)
        to_latents = (rows.latents_CK[n].double() - rows.latents_CK).square().sum(1)
        probabilities = (-s / 2 * to_rows - t / 2 * to_latents).softmax(0)
        wanted = probabilities @ rows.embeddings_CD.double()
        found = adapter(rows.latents_CK[n : n + 1], rows)[0]
        torch.testing.assert_close(found.double(), wanted, rtol=1e-3, atol=1e-3)


def test_many_vectors_come_out_as_few(fitted):
    adapter, _ = adapter_of(fitted)
    latents = fitted[1].latents_CK.repeat(10, 1)  # more than are compared with the vocabulary together
    found = adapter(latents, fitted[1])
    torch.testing.assert_close(found, adapter(fitted[1].latents_CK, fitted[1]).repeat(10, 1))


def test_the_snap_passes_gradients_to_all_that_learns(fitted):
    adapter, _ = adapter_of(fitted)
    rows = fitted[1]
    with torch.no_grad():
        adapter.out.weight.normal_(std=0.01)  # it starts at 0, where the layer before it gets no gradient yet
        adapter.log_sharpness.fill_(-0.1)
    rebuilt = adapter.snap(adapter.rebuild(rows.latents_CK), rows.latents_CK, rows)
    (rebuilt - rows.embeddings_CD).square().mean().backward()
    for name, parameter in adapter.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
        assert parameter.grad.isfinite().all(), name


def test_the_llama_presets_adapter_has_19_9_million_parameters():
    from adapter_stage1.config import PRESETS

    recipe = TrainRecipe.model_validate(PRESETS["llama-3.1-8b"])
    width = 4096
    with torch.device("meta"):
        adapter = Adapter(width // recipe.compressor.ratio, width, recipe.adapter)
    assert num_parameters(adapter) == pytest.approx(19.9e6, rel=0.01)
