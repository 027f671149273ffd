# Counts what a suite printed: "PASSED FAILED". A test is one of Criterion's, one program of
# examples/, one check of the sources, one program outside the tree; each says so in a line.
# A leak counts as well: Criterion's worker reports it after its test has passed.
# status: the suite's exit status. A suite that failed without a line saying why, or in which
# Criterion ran nothing at all, counts as one failure.

/Synthesis: Tested:/ {
    gsub(/\033\[[0-9;]*m/, "")
    for (i = 1; i < NF; i++) {
        if ($i == "Passing:") passed += $(i + 1)
        if ($i == "Failing:" || $i == "Crashing:") failed += $(i + 1)
        if ($i == "Tested:" && $(i + 1) == 0) failed += 1
    }
}
/^(consumer|example|tidy): .* passed$/ { passed += 1 }
/^(consumer|example|tidy): .* failed$/ { failed += 1 }
/ERROR: LeakSanitizer/ { failed += 1 }
END {
    if (status != 0 && failed == 0) failed = 1
    if (status == 0 && passed == 0) failed = 1
    print passed + 0, failed + 0
}
