"""The device mesh, under the name that gin files of one's own may import."""

from flipped_t5x import partitioning

Partitioner = partitioning.Partitioner
