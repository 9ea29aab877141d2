"""Style vectors in groups and on a plane: k-means and t-SNE of scikit-learn, the same in every run.

scikit-learn is imported when it is needed: it takes a second that training and prediction do without.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from cellkit.errors import UsageError
from cellkit.stages.styles_vectors import unit

FEWEST = 4  # images of a t-SNE: with fewer there are no neighbourhoods
PERPLEXITY = 30.0  # neighbours that each image has in effect, where there are enough images (van der Maaten 2008)
STARTS = 10  # of k-means; the best one counts
INITIAL_SPREAD = 1e-4  # standard deviation of the first map, as usual for t-SNE


def cluster_styles(embeddings: NDArray[np.floating], count: int = 7, seed: int = 0) -> NDArray[np.int64]:
    """Groups of similar styles: k-means of unit vectors.

    Args:
        embeddings: (N, S) styles.
        count: groups; fewer where there are fewer different styles.
        seed: of the starts.

    Returns:
        (N,) numbers from 0 without gaps, by falling size of the groups, of equal ones by the first image.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    vectors = unit(embeddings)
    if len(vectors) == 0:
        return np.zeros(0, np.int64)
    different = len(np.unique(vectors, axis=0))
    with threadpool_limits(1), warnings.catch_warnings():  # sums of several threads differ from run to run
        warnings.simplefilter("ignore", ConvergenceWarning)  # styles that differ by rounding alone: fewer groups
        found = KMeans(min(count, different), n_init=STARTS, random_state=seed).fit_predict(vectors)
    _, first, labels, sizes = np.unique(found, return_index=True, return_inverse=True, return_counts=True)
    places = np.empty(len(sizes), np.int64)
    places[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    ranked: NDArray[np.int64] = places[labels]
    return ranked


def nearest(embeddings: NDArray[np.floating], labels: NDArray[np.int64], label: int) -> NDArray[np.int64]:
    """Members of a group, the nearest to its centre first.

    Args:
        embeddings: (N, S) styles.
        labels: (N,) of :func:`cluster_styles`.
        label: the group.

    Returns:
        (n,) indices.
    """
    members = np.flatnonzero(labels == label)
    vectors = unit(embeddings)[members]
    return members[np.argsort(-(vectors @ unit(vectors.mean(0))), kind="stable")]


def check_enough(count: int) -> None:
    """Refuse to draw a map of too few images.

    Raises:
        UsageError: there are fewer than four.
    """
    if count < FEWEST:
        images = f"{count} image" + ("" if count == 1 else "s")
        raise UsageError("--picture", f"{images} cannot be mapped by t-SNE", f"give {FEWEST} or more, or leave it out")


def map_styles(embeddings: NDArray[np.floating], seed: int = 0) -> NDArray[np.float64]:
    """A plane on which similar styles lie close together: t-SNE (van der Maaten and Hinton 2008).

    The map begins with the first two principal components. Its axes have no unit, and distances between groups mean
    little.

    Args:
        embeddings: (N, S) styles.
        seed: of the search.

    Returns:
        (N, 2) places.

    Raises:
        UsageError: there are fewer than four styles.
    """
    from sklearn.manifold import TSNE

    check_enough(len(embeddings))
    vectors = unit(embeddings)
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    with threadpool_limits(1):  # sums of several threads differ from run to run, and t-SNE multiplies the difference
        found = TSNE(perplexity=perplexity, init=_principal(vectors, seed), random_state=seed).fit_transform(vectors)
    places: NDArray[np.float64] = np.asarray(found, np.float64)
    return places


def _principal(vectors: NDArray[np.float64], seed: int) -> NDArray[np.float32]:
    """First two principal components (N, 2), small, with signs that are always the same; noise where there are none.

    The noise also keeps equal images apart, which t-SNE could not separate.
    """
    left, singular, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    scores = left[:, :2] * singular[:2]
    scores = np.pad(scores, ((0, 0), (0, 2 - scores.shape[1])))
    strongest = np.abs(scores).argmax(0)
    scores *= np.where(scores[strongest, [0, 1]] < 0, -1.0, 1.0)
    spread = float(scores[:, 0].std())
    scores = scores / spread if spread > math.sqrt(np.finfo(np.float64).eps) else np.zeros_like(scores)
    noise = np.random.default_rng(seed).normal(size=scores.shape)
    return (INITIAL_SPREAD * (scores + INITIAL_SPREAD * noise)).astype(np.float32)
