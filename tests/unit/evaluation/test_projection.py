"""The map of embeddings: near each other where they are alike, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.errors import UsageError
from headstart.evaluation import project


def clusters(each: int = 30, features: int = 64, kinds: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    middles = 8 * random.normal(size=(kinds, features))
    labels = np.repeat(np.arange(kinds), each)
    return middles[labels] + random.normal(size=(len(labels), features)), labels


@pytest.mark.parametrize("method", ["pca", "tsne", "auto"])
def test_what_is_alike_lies_together(method: str) -> None:
    features, labels = clusters()
    places = project(features, method=method)
    assert places.shape == (90, 2)
    away = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(away, np.inf)
    assert np.mean(labels[away.argmin(axis=1)] == labels) == 1.0
    assert np.array_equal(project(features, method=method), places)


def test_principal_directions_are_those_of_the_largest_variance() -> None:
    features, _ = clusters(each=20)
    places = project(features, method="pca")
    centred = features - features.mean(axis=0)
    expected = np.linalg.svd(centred, compute_uv=False)[:2] ** 2
    np.testing.assert_allclose((places**2).sum(axis=0), expected, rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(0, 12), features=st.integers(1, 5), constant=st.booleans())
def test_few_rows_few_features_and_constants_have_a_map_too(rows: int, features: int, constant: bool) -> None:
    values = np.ones((rows, features)) if constant else np.random.default_rng(0).normal(size=(rows, features))
    places = project(values)
    assert places.shape == (rows, 2)
    assert np.isfinite(places).all()


def test_what_cannot_be_projected_is_said() -> None:
    with pytest.raises(UsageError, match="no projection 'umap'"):
        project(np.eye(3), method="umap")
    with pytest.raises(UsageError, match="not finite"):
        project([[1.0, np.nan]])
    with pytest.raises(UsageError, match="t-SNE of 5 pictures"):
        project(np.eye(5), method="tsne")
    with pytest.raises(UsageError, match="t-SNE of 5001 pictures"):
        project(np.zeros((5001, 2)), method="tsne")
