"""From images to embeddings: extractors, and the pass that runs them."""
