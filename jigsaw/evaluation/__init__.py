"""What the benchmarks share: how replies are read and scored, as the paper did and as a careful reader would."""
