"""What every network is: see `Net`."""

from flax import linen as nn


class Net(nn.Module):
    """A network for one example: (x_t [h, w, c], t, label [words], deterministic) -> raw output [h, w, out_channels].

    Its fields are `out_channels`, the keys of a configuration's section `net` but `name`, `word_prior` and `motifs`
    (the words of `word_sets` as positions), and `word_ground`, the positions of the words of Categoricals.
    """

    @property
    def paints(self) -> bool:
        """Whether a complete label alone says the raw output, whatever x_t is; by default it does not."""
        return False

    @nn.nowrap
    def check_shape(self, shape: tuple[int, int, int]) -> None:
        """Raise ValueError, naming a key of `net`, unless it takes images [h, w, c] of `shape`; by default it does."""
