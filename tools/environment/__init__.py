"""Makes the environment: on any machine, from locks, on AutoDL."""
