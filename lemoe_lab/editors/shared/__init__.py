"""What several editors share: life on a host, overwritten weights, replaced outputs, gradients."""
