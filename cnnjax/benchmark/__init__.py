"""Benchmark training and inference against other libraries, and report the memory of a training step.

Each peer runs in its own process, which prepares, reports its facts and then runs laps of a given number of steps on
request (`protocol`). `turns` prepares one peer after the other and then measures all of them alternately, so that a
disturbance on the machine affects all of them equally. cnnjax comes first: its platform and its number of steps per lap
apply to all.

`work` holds the types that the processes exchange. Neither `work` nor `machine` imports JAX, so that peers without JAX
do not load it.
"""
