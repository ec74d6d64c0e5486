"""racecar beside Envoy on one machine, in one run: `make bench`.

- scenario: one kind of load, with a floor (below it the run fails) and a goal
- side: `racecar` or `envoy`; both hold the same rules, write an access log and stand in front of the same nginx
- round: one scenario, one side, `--seconds` of load; rounds alternate between the sides
- ratio: of two neighbouring rounds, so that above 1 racecar is better; a result is the median of its ratios
"""
