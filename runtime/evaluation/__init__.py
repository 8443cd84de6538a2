"""What lies behind the figures of an evaluation: rules of other benchmarks, curves, confusions, errors, a report."""
