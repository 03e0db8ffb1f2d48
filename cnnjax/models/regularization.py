"""Regularization layers: dropout, and local response normalization across channels."""

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.errors import UserError, require
from cnnjax.models.layers import parameter_dtype


class Dropout(nnx.Module):
    """Set each value to zero with probability ``rate`` in training, and scale the rest by 1 / (1 - rate).

    Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting". Values are scaled in
    training, so evaluation is the identity. The same key drops the same values in every dtype.
    """

    def __init__(self, rate: float):
        require(0 <= rate < 1, "rate", rate, "at least 0 and below 1")
        self.rate = rate
        self.deterministic = False  # set by train() and eval()

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Map an array of any shape to the same shape; ``rngs`` is needed only in training.

        Raises:
            UserError: there is no key in training.
        """
        if self.deterministic or not self.rate:
            return x
        if rngs is None:
            raise UserError("dropout has no PRNG key in training; pass one with apply(..., train=True, key=KEY)")
        kept = jax.random.bernoulli(rngs(), jnp.float32(1 - self.rate), x.shape)
        return jnp.where(kept, x / jnp.asarray(1 - self.rate, x.dtype), jnp.zeros_like(x))


class LocalResponseNorm(nnx.Module):
    """Divide each value by a power of the sum of squares over neighboring channels, at the same position:

        y[c] = x[c] / (k + alpha / size * sum of x[j]^2 over j from c - size // 2 to c + (size - 1) // 2) ^ beta

    Krizhevsky, Sutskever and Hinton 2012, "ImageNet Classification with Deep Convolutional Neural Networks", section
    3.3. torch and Caffe divide alpha by the size, as here. The paper and TensorFlow do not: multiply their alpha by the
    size to get the alpha of this layer. Channels outside the range count as zeros. Computed in at least float32.
    """

    def __init__(self, size: int = 5, *, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0):
        require(type(size) is int and size >= 1, "size", size, "a whole number, 1 or more")
        require(alpha >= 0, "alpha", alpha, "0 or more")
        require(k > 0, "k", k, "greater than 0 to avoid division by zero")
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    @jax.named_scope("norm")
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [N, H, W, C] to [N, H, W, C]."""
        wide = x.astype(parameter_dtype(x.dtype))
        channels, before = x.shape[-1], self.size // 2
        squares = jnp.pad(wide * wide, ((0, 0), (0, 0), (0, 0), (before, self.size - 1 - before)))
        first, *rest = (squares[..., i : i + channels] for i in range(self.size))
        total = sum(rest, start=first)
        return (wide * (self.k + self.alpha / self.size * total) ** -self.beta).astype(x.dtype)
