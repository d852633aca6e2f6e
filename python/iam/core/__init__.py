"""What everything else in IAM uses: errors, sites, sparse features, lazy imports."""
