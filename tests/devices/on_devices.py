"""The checks of `test_devices`, in one process with 8 virtual CPU devices: it prints what each one found as JSON.

usage: python tests/devices/on_devices.py CHECK...
"""

import json
import os
import sys
import traceback

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import training_cases as cases

COMPILATION = "/jax/core/compile/backend_compile_duration"


def wide(name: str) -> dict:
    """Compare 20 steps in float64 on 8 devices with one device."""
    jax.config.update("jax_enable_x64", True)
    experiment, dataset = cases.case(name, "float64")
    one, many = (cases.trained(experiment, dataset, devices) for devices in (1, 8))
    a, b = one.snapshot.state, many.snapshot.state
    return {
        "params": cases.distance(a.params, b.params),
        "statistics": cases.distance(a.batch_stats, b.batch_stats) if a.batch_stats else 0.0,
        "ema": cases.distance(a.ema.params, b.ema.params),
        "devices": len(jax.tree.leaves(b.params)[0].sharding.device_set),
        "rows": [{k: v for k, v in outcome.rows[0].items() if "second" not in k} for outcome in (one, many)],
    }


CHECKS = {
    **{f"wide-{name}": lambda name=name: wide(name) for name in cases.CASES},
}

if __name__ == "__main__":
    import time
    found = {}
    for name in sys.argv[1:] or CHECKS:
        t = time.time()
        try:
            found[name] = CHECKS[name]()
        except Exception:
            found[name] = {"error": traceback.format_exc()}
        print(name, time.time() - t, found[name].get('error', found[name]), file=sys.stderr)
    print(json.dumps(found))
