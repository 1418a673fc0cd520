"""What `segwise train NAME` trains: one recipe a file, found by its name; each has `recipe(*, seed) -> Recipe`."""
