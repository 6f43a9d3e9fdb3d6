"""Labels by people: the rows worth most leave as tasks of Label Studio, and come back as a batch of labels."""
