"""How an operation is computed on this backend. Nothing outside tests the backend or knows the native part."""
