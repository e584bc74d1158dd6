"""Figures of embeddings beside scikit-learn's, at shapes whose truth is known, and of input that is not right."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import brentq
from sklearn.metrics import davies_bouldin_score, pairwise_distances, roc_curve, silhouette_score

from diag.embedding_metrics import (
    ALL_PAIRS,
    ErrorRates,
    Groups,
    davies_bouldin,
    draw_pairs,
    intrinsic_dimension,
    mean_cosines,
    neighbours,
    pair_cosines,
    silhouette,
    unit_rows,
)
from diag.embeddings import analyse, analyze_embeddings, console_text, embeddings_cli
from diag.embeddings_read import Labelled, read_embeddings
from trainworks.console import UserError


def speakers(
    count: int = 12, each: int = 20, dimensions: int = 32, noise: float = 0.7, common: float = 0.0
) -> Labelled:
    """Embeddings around one random direction a speaker, with a direction common to all."""
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(count), each)
    embeddings = (
        rng.normal(size=(count, dimensions))[codes] + noise * rng.normal(size=(count * each, dimensions)) + common
    )
    return Labelled(embeddings.astype(np.float32), np.array([f"p{code}" for code in codes]), "speakers")


@pytest.fixture(scope="module")
def grouped() -> tuple[np.ndarray, np.ndarray, Groups]:
    found = speakers()
    codes = np.unique(found.labels, return_inverse=True)[1]
    codes[0] = codes.max() + 1  # a label with one row
    return found.embeddings, unit_rows(found.embeddings), Groups.of(codes)


def test_mean_cosines_are_those_of_all_pairs(grouped):
    _, unit, groups = grouped
    cosines = (unit.astype(float) @ unit.T)[np.triu_indices(len(unit), 1)]
    is_same = np.equal.outer(groups.codes, groups.codes)[np.triu_indices(len(unit), 1)]
    assert mean_cosines(unit, groups) == pytest.approx((cosines[is_same].mean(), cosines[~is_same].mean()), abs=1e-6)


def test_clusters_are_judged_as_by_scikit_learn(grouped):
    embeddings, unit, groups = grouped
    rng = np.random.default_rng(0)
    expected = silhouette_score(embeddings.astype(float), groups.codes, metric="cosine")
    assert silhouette(unit, groups, rng) == pytest.approx(expected, abs=1e-5)
    assert davies_bouldin(embeddings, groups)["index"] == pytest.approx(
        davies_bouldin_score(embeddings, groups.codes), rel=1e-4
    )


@pytest.mark.parametrize("overlap", [0.0, 1.0, 3.0])
def test_equal_error_rate_is_where_the_roc_curve_meets_the_diagonal(overlap):
    rng = np.random.default_rng(1)
    same, different = rng.normal(1.5, 1, 300).round(1), rng.normal(0, overlap + 0.1, 500).round(1)
    false, true, _ = roc_curve(np.r_[np.ones(300), np.zeros(500)], np.r_[same, different])
    expected = brentq(lambda rate: 1 - rate - np.interp(rate, false, true), 0, 1)
    assert ErrorRates(same, different).equal()[0] == pytest.approx(expected, abs=1e-9)


def test_weights_count_pairs_as_often():
    same, different = np.array([0.2, 0.6, 0.9]), np.array([0.1, 0.5, 0.7])
    weights = np.array([2, 1, 1, 1, 3, 1])
    repeated = ErrorRates(np.repeat(same, [2, 1, 1]), np.repeat(different, [1, 3, 1])).equal()
    assert ErrorRates(same, different).equal(weights) == pytest.approx(repeated)


def test_drawn_pairs_are_what_they_say_and_estimate_all():
    found = speakers(count=8, each=200, dimensions=8)
    codes = np.unique(found.labels, return_inverse=True)[1]
    shuffled = np.random.default_rng(0).permutation(len(codes))
    groups, unit = Groups.of(codes[shuffled]), unit_rows(found.embeddings[shuffled])
    assert len(codes) * (len(codes) - 1) // 2 > ALL_PAIRS
    same, different = draw_pairs(groups, np.random.default_rng(0))
    assert (groups.codes[same[:, 0]] == groups.codes[same[:, 1]]).all()
    assert (same[:, 0] != same[:, 1]).all()
    assert (groups.codes[different[:, 0]] != groups.codes[different[:, 1]]).all()
    estimated = [pair_cosines(unit, pairs).mean() for pairs in (same, different)]
    assert estimated == pytest.approx(mean_cosines(unit, groups), abs=0.01)


def test_neighbours_are_the_nearest_two(grouped):
    embeddings = grouped[0]
    distances = pairwise_distances(embeddings.astype(float))
    np.fill_diagonal(distances, np.inf)
    queries, nearest, found = neighbours(embeddings, np.random.default_rng(0))
    assert (nearest == np.argsort(distances, axis=1)[queries, :2]).all()
    np.testing.assert_allclose(found, np.sort(distances, axis=1)[queries, :2], rtol=1e-6)


@pytest.mark.parametrize("dimension", [2, 5])
def test_intrinsic_dimension_of_a_cube_in_a_larger_space(dimension):
    rng = np.random.default_rng(0)
    cube = rng.uniform(size=(2000, dimension)) @ np.linalg.qr(rng.normal(size=(40, dimension)))[0].T
    _, _, distances = neighbours(cube.astype(np.float32), rng)
    assert intrinsic_dimension(distances) == pytest.approx(dimension, rel=0.1)


def test_centring_shows_what_a_common_direction_hides():
    result = analyse(speakers(common=1.5))
    assert result["raw"]["different"] > 0.5
    assert result["centred"]["different"] == pytest.approx(0, abs=0.1)
    assert result["band"] == "fair"
    assert result["centred"]["band"] == "excellent"
    assert result["separation"] == result["same_speaker_similarity"] - result["different_speaker_similarity"]
    assert "common direction" in [finding["name"] for finding in result["findings"]]
    low, high = result["centred"]["eer"]["interval"]
    assert low <= result["centred"]["eer"]["rate"] <= high < 0.1
    assert "mean-centred" in console_text(result)


def test_a_mislabelled_row_and_confusable_labels_are_named():
    found = speakers(noise=0.3)
    found.labels[5] = "p7"
    found.embeddings[found.labels == "p3"] += 3 * found.embeddings[found.labels == "p9"].mean(axis=0)
    result = analyse(found)
    assert (result["outliers"][0]["row"], result["outliers"][0]["nearest"]) == (5, "p0")
    assert sorted(result["confusable"][0]["labels"]) == ["p3", "p9"]


def test_collapse_is_critical_whatever_the_labels():
    found = speakers(noise=0.01, common=50.0)
    assert ("collapse", "critical") in [(each["name"], each["level"]) for each in analyse(found)["findings"]]


def test_embeddings_that_are_all_the_same_are_drawn_without_a_crash(tmp_path: Path):
    np.savez(tmp_path / "one.npz", embeddings=np.ones((30, 4)), labels=["a", "b"] * 15)
    found = embeddings_cli(tmp_path / "one.npz", out=tmp_path / "out")
    assert found["findings"][0]["name"] == "collapse"
    assert "embeddings_tsne.png" not in found["plots"]
    assert (tmp_path / "out/embeddings_pca.png").read_bytes().startswith(b"\x89PNG")


def test_what_has_no_direction_is_left_out_and_told():
    found = speakers()
    found.embeddings[3], found.embeddings[8, 2] = 0, np.nan
    result = analyse(found)
    assert (result["zero"], result["not_finite"]) == (1, 1)
    assert {"zero vectors", "not finite"} <= {finding["name"] for finding in result["findings"]}
    assert np.isfinite(result["separation"])


@pytest.mark.parametrize(
    ("labels", "name"), [(["a"] * 240, "one label"), (range(240), "no pairs"), (None, "no labels")]
)
def test_labels_that_tell_nothing_are_a_finding(tmp_path, labels, name):
    np.savez(
        tmp_path / "e.npz", embeddings=speakers().embeddings, **({} if labels is None else {"labels": list(labels)})
    )
    result = embeddings_cli(tmp_path / "e.npz", out=tmp_path / "out", plots=False)
    assert name in [finding["name"] for finding in result["findings"]]
    assert json.loads((tmp_path / "out/embeddings.json").read_text())["rows"] == 240
    assert name in console_text(result)


def test_every_format_reads_the_same(tmp_path: Path):
    found = speakers(count=3, each=4, dimensions=3)
    np.savez(tmp_path / "e.npz", embeddings=found.embeddings, labels=found.labels)
    np.save(tmp_path / "e.npy", found.embeddings)
    (tmp_path / "labels.txt").write_text("\n".join(found.labels))
    lines = [f'"{label}",{",".join(map(str, row))}' for label, row in zip(found.labels, found.embeddings, strict=True)]
    (tmp_path / "e.csv").write_text("speaker,d0,d1,d2\n" + "\n".join(lines) + "\n")
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(
        pa.table({"label": list(found.labels), "embedding": found.embeddings.tolist()}), tmp_path / "e.parquet"
    )
    for name, labels in (("e.npz", None), ("e.npy", "labels.txt"), ("e.csv", None), ("e.parquet", None)):
        read = read_embeddings(tmp_path / name, labels and tmp_path / labels)
        np.testing.assert_allclose(read.embeddings, found.embeddings, rtol=1e-6)
        assert list(read.labels) == list(found.labels)


def test_bad_input_is_one_line(tmp_path: Path):
    np.savez(tmp_path / "short.npz", embeddings=np.ones((5, 2)), labels=["a"] * 4)
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "flat.npy", np.ones(5))
    np.save(tmp_path / "zeros.npy", np.zeros((5, 2)))
    (tmp_path / "broken.npz").write_bytes(b"PK\3\4 cut")
    (tmp_path / "text.npz").write_text("once upon a time")
    (tmp_path / "text.csv").write_text("label,d0\na,1\nb,much\n")
    (tmp_path / "empty.csv").write_text("")
    for name, message in {
        "short.npz": "5 embeddings but labels of shape",
        "pickled.npy": "cannot be read as npy: no array, or pickled objects, which are never loaded$",
        "text.npz": "cannot be read as npz: no array, or pickled objects",
        "flat.npy": "rows of real numbers",
        "zeros.npy": "0 usable embeddings of 5",
        "broken.npz": "cannot be read as npz",
        "text.csv": "could not convert string 'much'",
        "empty.csv": "is empty",
        "none.npz": "does not exist",
    }.items():
        with pytest.raises(UserError, match=message):
            embeddings_cli(tmp_path / name)
    with pytest.raises(UserError, match="no single file of embeddings"):
        embeddings_cli(tmp_path)


def test_a_model_is_embedded_and_drawn_with_a_hundred_labels(tmp_path: Path):
    torch = pytest.importorskip("torch")
    found = speakers(count=100, each=4, dimensions=8)
    model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Dropout(0.5)).train()
    batches = [
        {
            "mel": torch.from_numpy(found.embeddings[start : start + 64]),
            "speaker": list(found.labels[start : start + 64]),
        }
        for start in range(0, 400, 64)
    ]
    result = analyze_embeddings(model, batches, "cpu", tmp_path, max_samples=300)
    assert model.training
    assert (result["rows"], result["labels"]["count"]) == (300, 75)
    assert {"same_speaker_similarity", "different_speaker_similarity", "separation"} <= result.keys()
    assert result["plots"][:2] == ["embeddings_pca.png", "embeddings_tsne.png"]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in result["plots"])
    assert read_embeddings(tmp_path).embeddings.shape == (300, 6)
    with pytest.raises(UserError, match="give embed="):
        analyze_embeddings(model, [{"waves": 1}], "cpu", tmp_path)
