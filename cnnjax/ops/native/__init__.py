"""The optional native library for CPUs, called through XLA's FFI; `make native` builds it."""
