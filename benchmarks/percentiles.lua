-- What wrk's own list of percentiles leaves out.
done = function(summary, latency, requests)
  io.write(string.format("p95: %.0f us\n", latency:percentile(95)))
end
