"""What is done with methods: train, evaluate, predict, report."""
