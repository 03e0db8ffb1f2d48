"""The optional native part for CPUs, called through XLA's FFI; `make native` builds it."""
