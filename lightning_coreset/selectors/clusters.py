"""Shared rules of the methods that pick from k-means clusters."""

import torch
from torch import Tensor


def clusters_by_turn(assignment: Tensor, initial: Tensor) -> list[Tensor]:
    """Members of each cluster in the order in which clusters take their turn.

    Clusters that hold no ``initial`` item come first, then larger before smaller, then by lowest member.

    Args:
        assignment: Cluster of each item ``[N]``.
        initial: Rows that count as chosen ``[m]``.

    Returns:
        Ascending rows of each cluster that has any.
    """
    order = torch.argsort(assignment, stable=True)
    sizes = torch.bincount(assignment)
    members = [part for part in order.split(sizes.tolist()) if len(part)]
    taken = set(assignment[initial].tolist())
    return sorted(members, key=lambda part: (int(assignment[part[0]]) in taken, -len(part), int(part[0])))
