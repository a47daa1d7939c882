# Names only: what they do is in scripts/.
.PHONY: bench demo test fuzz clean-lab
demo: ; @KEEP=$(KEEP) scripts/demo
test: ; @scripts/test
bench: ; @scripts/bench
fuzz: ; @scripts/fuzz
clean-lab: ; @scripts/demo clean
