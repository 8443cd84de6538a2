"""What editors ask of a spec that is being written; free of any protocol."""
