import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import r2_score

from adapter_stage1.compress import (
    Chain,
    StreamingCovariance,
    explained_variance,
    fit_pca,
    from_arrays,
    latent_width,
    random_projection,
    rivals,
    shared_bits,
)
from adapter_stage1.quantise import Absmax, fit_product
from trainworks.console import UserError


def make_table(num_rows=5000, width=48, seed=0):
    """Rows with a decaying spectrum, correlated dimensions and a mean away from 0."""
    random = np.random.default_rng(seed)
    rotation = np.linalg.qr(random.standard_normal((width, width)))[0]
    rows = random.standard_normal((num_rows, width)) * np.geomspace(1, 0.05, width) @ rotation
    return (rows + random.standard_normal(width)).astype(np.float32)


def projector(components):
    return components.T.astype(np.float64) @ components


@pytest.fixture(scope="module")
def table():
    return make_table()


@pytest.fixture(scope="module")
def weights():
    """Token frequencies after Zipf's law; a few tokens never occur."""
    return np.random.default_rng(1).permutation(1e6 / np.arange(1, 5001)) * (np.arange(5000) % 100 > 0)


@pytest.fixture(scope="module")
def pca(table):
    covariance = StreamingCovariance(table.shape[1])
    covariance.update(table)
    return covariance.pca()


# PCA ------------------------------------------------------------------------------------------------------------------


def test_pca_of_a_vocabulary_is_that_of_scikit_learn():
    table = make_table(50_000, 576)
    ours = fit_pca(np.array_split(table, 7), 72)
    theirs = PCA(72, svd_solver="covariance_eigh").fit(table.astype(np.float64))
    assert np.linalg.norm(projector(ours.components) - projector(theirs.components_), 2) < 1e-5
    np.testing.assert_allclose(ours.components, theirs.components_, atol=1e-5)
    np.testing.assert_allclose(ours.explained_variance, theirs.explained_variance_, rtol=1e-5)
    np.testing.assert_allclose(ours.mean, theirs.mean_, atol=1e-6)
    kept = ours.explained_variance.sum() / ours.total_variance
    assert kept == pytest.approx(theirs.explained_variance_ratio_.sum(), rel=1e-5)


@pytest.mark.parametrize("whiten", [False, True])
def test_latents_are_those_of_scikit_learn(table, whiten):
    ours, theirs = fit_pca([table], 6, whiten=whiten), PCA(6, whiten=whiten).fit(table.astype(np.float64))
    latents = theirs.transform(table)
    np.testing.assert_allclose(ours.encode(table), latents, atol=1e-5)
    np.testing.assert_allclose(ours.decode(latents), theirs.inverse_transform(latents), atol=1e-5)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_weighted_covariance_is_that_of_numpy_however_the_rows_come(table, weights, kind):
    rows = (table + 100).astype(kind)  # a mean far from 0 must cost no digits
    covariance = StreamingCovariance(table.shape[1])
    for block in np.array_split(np.arange(len(rows)), [1, 30, 4000]):
        covariance.update(rows[block], weights[block] * 1e-9)  # their unit doesn't matter
    exact = rows.astype(np.float64)
    expected = np.cov(exact.T, aweights=weights)
    np.testing.assert_allclose(covariance.mean, np.average(exact, axis=0, weights=weights), rtol=1e-7)
    np.testing.assert_allclose(covariance.covariance(), expected, atol=1e-6 * expected.max())


def test_float64_rows_keep_their_precision(table):
    covariance = StreamingCovariance(table.shape[1])
    covariance.update(table.astype(np.float64))
    np.testing.assert_allclose(covariance.covariance(), np.cov(table.T.astype(np.float64)), atol=1e-13)


def test_weights_go_with_their_rows_through_the_blocks(table, weights):
    whole = fit_pca([table], 6, weights=weights)
    in_blocks = fit_pca((table[start : start + 700] for start in range(0, len(table), 700)), 6, weights=weights)
    np.testing.assert_allclose(in_blocks.components, whole.components, atol=1e-5)
    unweighted = fit_pca([table], 6)
    kept = [explained_variance(table, fit.decode(fit.encode(table)), weights) for fit in (whole, unweighted)]
    assert kept[0] > kept[1]


def test_a_memory_mapped_table_is_fitted_as_one_in_memory(table, tmp_path):
    np.save(tmp_path / "table.npy", table)
    mapped = fit_pca([np.load(tmp_path / "table.npy", mmap_mode="r")], 6)
    np.testing.assert_array_equal(mapped.components, fit_pca([table], 6).components)


def test_a_truncated_pca_is_the_pca_of_that_width(table, pca):
    narrow, direct = pca.truncated(6), fit_pca([table], 6)
    np.testing.assert_array_equal(narrow.components, direct.components)
    np.testing.assert_array_equal(narrow.explained_variance, direct.explained_variance)


def test_the_sign_of_components_is_fixed(pca):
    largest = np.abs(pca.components).argmax(axis=1)
    assert (pca.components[np.arange(len(largest)), largest] > 0).all()


def test_float16_latents_lose_next_to_nothing(table, pca):
    codes = pca.truncated(6).encode(table)
    kept = [explained_variance(table, pca.truncated(6).decode(some)) for some in (codes, codes.astype(np.float16))]
    assert kept[1] == pytest.approx(kept[0], abs=1e-5)


def test_latents_of_prompts_keep_the_leading_dimensions(table, pca):
    prompts = table[:12].reshape(2, 6, -1)
    latents = pca.truncated(6).encode(prompts)
    assert latents.shape == (2, 6, 6)
    np.testing.assert_allclose(latents.reshape(12, 6), pca.truncated(6).encode(table[:12]), rtol=1e-5)
    assert pca.truncated(6).decode(latents).shape == prompts.shape


# What cannot be done --------------------------------------------------------------------------------------------------


def test_a_ratio_that_does_not_divide_names_those_that_do():
    assert latent_width(576, 8) == 72
    with pytest.raises(
        UserError, match=r"ratio 7 does not divide the embedding width 48; take one of 2, 3, 4, 6, 8, 12"
    ):
        latent_width(48, 7)


def test_no_pca_is_wider_than_the_rank(table):
    few, repeating = table[:5], np.concatenate([table[:, :40], table[:, :8]], axis=1)
    for rows, rank, ratio in ((few, 4, 12), (repeating, 40, 2)):
        with pytest.raises(UserError, match=f"rank {rank}; take a ratio of at least {ratio}"):
            fit_pca([rows], 48)


def test_a_damaged_table_is_refused(table):
    damaged = table.copy()
    damaged[7, 3] = np.nan
    with pytest.raises(UserError, match="NaN or infinity"):
        fit_pca([damaged], 6)


# Rivals ---------------------------------------------------------------------------------------------------------------


def test_a_random_projection_keeps_its_share_of_the_variance(table, pca):
    random = random_projection(48, 12, seed=0, mean=pca.mean)
    np.testing.assert_allclose(random.components @ random.components.T, np.eye(12), atol=1e-6)
    latents = random.encode(table[:5])
    np.testing.assert_allclose(
        random.decode(latents), (latents @ np.linalg.pinv(random.components).T) + pca.mean, atol=1e-5
    )
    shares = [
        explained_variance(table, fit.decode(fit.encode(table)))
        for fit in (random_projection(48, 12, seed, pca.mean) for seed in range(30))
    ]
    assert np.mean(shares) == pytest.approx(12 / 48, abs=0.03)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("width", [48, 5])
def test_absmax_levels_lie_within_half_a_step(table, bits, width):
    quantiser, rows = Absmax(bits, width), table[:60, :width].reshape(3, 20, width)
    codes = quantiser.encode(rows)
    steps = np.abs(rows).max(axis=-1, keepdims=True) / (2 ** (bits - 1) - 1)
    assert (np.abs(quantiser.decode(codes) - rows) <= steps * 0.51).all()
    np.testing.assert_array_equal(quantiser.decode(quantiser.encode(-rows)), -quantiser.decode(codes))


def test_absmax_counts_levels_and_scale():
    assert Absmax(4, 48).bits_per_vector == 48 * 4 + 16
    assert Absmax(8, 48).bits_per_vector == 48 * 8 + 16
    assert Absmax(4, 5).bits_per_vector == 3 * 8 + 16


@pytest.mark.parametrize("bits", [4, 8])
def test_a_vector_of_zeros_stays_zero(bits):
    quantiser = Absmax(bits, 5)
    np.testing.assert_array_equal(quantiser.decode(quantiser.encode(np.zeros((1, 5)))), np.zeros((1, 5)))


def test_product_quantisation_is_about_as_good_as_scikit_learns_k_means(table):
    product = fit_product(table, 12, seed=0)
    ours = np.square(product.decode(product.encode(table)) - table).sum()
    theirs = sum(
        KMeans(256, init="random", n_init=1, max_iter=15, random_state=0).fit(part).inertia_
        for part in np.split(table, 12, 1)
    )
    assert ours == pytest.approx(theirs, rel=0.02)
    np.testing.assert_array_equal(
        product.decode(product.encode(table)), product.decode(fit_product(table, 12, 0).encode(table))
    )


def test_product_codes_are_the_nearest_centroids(table):
    product = fit_product(table[:300], 4, seed=0)
    prompts = table[:6].reshape(2, 3, 48)
    codes = product.encode(prompts)
    assert (codes.shape, codes.dtype) == ((2, 3, 4), np.uint8)
    distances = np.square(prompts.reshape(2, 3, 4, 1, 12) - product.codebooks).sum(-1)
    np.testing.assert_array_equal(codes, distances.argmin(-1))


def test_a_product_quantiser_knows_a_small_vocabulary_by_heart(table):
    repeated = np.repeat(table[:100], 5, axis=0)
    product = fit_product(repeated, 4, seed=0)
    np.testing.assert_allclose(product.decode(product.encode(repeated)), repeated, atol=1e-6)


def test_frequent_tokens_are_quantised_better_with_weights(table, weights):
    with_weights, without = fit_product(table, 8, 0, weights), fit_product(table, 8, 0)
    kept = [explained_variance(table, fit.decode(fit.encode(table)), weights) for fit in (with_weights, without)]
    assert kept[0] > kept[1]


def test_parts_that_do_not_divide_are_refused(table):
    with pytest.raises(UserError, match="5 parts do not divide the width 48"):
        fit_product(table, 5, seed=0)


@pytest.mark.parametrize("width", [1, 6, 24])
def test_rivals_take_no_more_bits_than_float16_latents(table, pca, width):
    found = rivals(table, pca, width, seed=0)
    for rival in found:
        codes = rival.encode(table[:2])
        sent = codes.astype(np.float16) if codes.dtype == np.float32 else codes
        assert 8 * sent[0].nbytes == rival.bits_per_vector <= 16 * width
        assert rival.decode(sent).shape == (2, 48)
    if width == 6:
        assert {rival.name: rival.bits_per_vector for rival in found} == {
            "random-projection": 96,
            "product": 96,
            "pca+int4": 96,
            "pca+int8": 96,
        }


def test_compressors_survive_a_file(table, pca, tmp_path):
    from safetensors.numpy import load_file, save_file

    made = [
        pca.truncated(6),
        fit_pca([table], 6, whiten=True),
        Absmax(8, 48),
        Chain(pca, fit_product(table[:300], 4, 0)),
    ]
    for compressor in [*made, *rivals(table[:300], pca, 6, seed=0)]:
        save_file(compressor.to_arrays(), tmp_path / "compressor.safetensors")
        again = from_arrays(compressor.name, load_file(tmp_path / "compressor.safetensors"))
        assert (again.name, again.bits_per_vector) == (compressor.name, compressor.bits_per_vector)
        codes = compressor.encode(table[:9])
        np.testing.assert_array_equal(again.encode(table[:9]), codes)
        np.testing.assert_array_equal(again.decode(codes), compressor.decode(codes))


def test_what_both_ends_hold_is_counted_apart(pca):
    assert shared_bits(random_projection(48, 6, seed=0)) == 32 * (6 * 48 + 48 + 6)


@pytest.mark.parametrize("kind", ["zip", "pca+zip", "zip+int8", "pca+pca"])
def test_a_kind_of_another_version_is_refused(kind):
    with pytest.raises(UserError, match="is no compressor that this version knows"):
        from_arrays(kind, random_projection(4, 2, seed=0).to_arrays())


def test_explained_variance_is_the_variance_weighted_r2_score(table, weights):
    rebuilt = table + np.random.default_rng(0).normal(0, 0.1, table.shape)
    for given in (None, weights):
        expected = r2_score(table, rebuilt, sample_weight=given, multioutput="variance_weighted")
        assert explained_variance(table, rebuilt, given) == pytest.approx(expected, abs=1e-6)
    assert explained_variance(table, np.broadcast_to(table.mean(axis=0), table.shape)) == pytest.approx(0, abs=1e-6)
