"""Operations, each computed by the algorithm for the backend. Only this package uses the native library."""
