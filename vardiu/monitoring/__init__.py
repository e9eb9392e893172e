r"""Is it converging? Measures, alarms, the quality of gradients, reference curves."""
