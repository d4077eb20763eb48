"""From videos to training batches: decoding, preparation, feeding. Imports no JAX."""

from data_pipelines.console.starting import end_when_interrupted

end_when_interrupted()
