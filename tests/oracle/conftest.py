"""Settings of the comparisons with other libraries, made before a test module imports one of them."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # TensorFlow, the default, is not installed
