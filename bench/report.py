#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Makes tables and plots of what the benchmarks have printed.

usage: bench/report.py RESULTS [DOCS]

Prints the tables; with DOCS also writes DOCS.md, DOCS/*.svg and DOCS/results.json.
"""

import json
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from prettytable import PrettyTable, TableStyle

C, RUST = "C", "Rust"
COLOURS = {C: "#8a8a8a", RUST: "#c4552d", "floor": "#d9d9d9"}
DIRECT, PURE = {"migrate": 0.95, "migrate, a listener": 1.0}, {"migrate": 0.92,
                                                              "migrate, a listener": 1.0}
# By requests in a datagram, and by how long replaced SAs are found at old addresses, in ms.
WHOLE = {(1, 0): 1.0, (500, 0): 0.97, (500, 5000): 1.2}
RESOLUTION = {"direct": 5, "active-backup bond": 5}, 40
SLAVES = {"advance_esn": "telling of a number", "add": "adding an SA", "delete": "deleting one"}
# A thousandth of what Linux 7.3 needs with 50,000 SAs.
FULL = 132000

# Where a migration's instructions go: the outermost function in a stack that is
# named here takes all that it has called.
PARTS = {
    "make ready (ciphers)": ("xfrm_init_state", "crypto_a", "geniv_salt"),
    "allocate, clone": ("xfrm_state_alloc", "kmemdup_noprof", "_algo_", "replay_clone",
                        "_encap_", "krealloc"),
    "find": ("xfrm_state_lookup", "xfrm_find_acq"),
    "insert": ("xfrm_state_migrate_install", "next_byspi", "next_bydst", "next_bysrc",
               "list_add", "hrtimer_copy_start", "mod_timer"),
    "let the old one go": ("xfrm_state_put", "__xfrm_state_delete", "8replaced", "list_del",
                           "timer_delete", "synchronize_rcu", "call_rcu"),
    "tell listeners": ("xfrm_send_migrate_state", "6notify8announce"),
}
HANDLERS = "xfrm_do_migrate_state", "MigrateState5serve"
OUTSIDE, REDIRECT, REST = "netlink, ack", "redirection", "the handler itself"


class Results(list):
    """All of them, the two rounds of C as one."""

    def __init__(self, path):
        super().__init__(json.loads(line) for line in Path(path).read_text().splitlines())
        rounds = {}
        for row in self:
            name = {**row, "who": C} if row["who"] == "C again" else row
            key = tuple(sorted((k, str(v)) for k, v in name.items()
                               if k not in ("median", "min", "max", "count", "stacks", "hash")))
            rounds.setdefault(key, []).append(row)
        self[:] = [merged(rows) for rows in rounds.values()]

    def where(self, bench, **what):
        return [r for r in self if r["bench"] == bench
                and all(r.get(k) == v for k, v in what.items())]

    def one(self, bench, **what):
        found = self.where(bench, **what)
        return found[0] if found else None

    def values(self, bench, name):
        """In the order in which they were measured."""
        return list(dict.fromkeys(r[name] for r in self.where(bench)))


def merged(rows):
    """One row of several rounds."""
    one = dict(rows[0])
    # Of one SA; those that are added for SPIs let small tables grow.
    assert one["bench"] == "spi" or len({row.get("hash") for row in rows}) == 1, rows
    if len(rows) > 1 and "median" in one:
        one.update(median=round(sum(r["median"] for r in rows) / len(rows)),
                   min=min(r["min"] for r in rows), max=max(r["max"] for r in rows))
    return one


def spread(row):
    """Median, least and most."""
    return f"{row['median']:,} ({row['min']:,} to {row['max']:,})" if row else ""


class Report:
    """Tables for the terminal, and for a document with plots."""

    def __init__(self, results, docs):
        self.results, self.docs = results, docs
        self.text = []

    def say(self, text):
        self.text.append(text)

    def table(self, title, head, rows):
        table = PrettyTable(head, align="r", title=title)
        table.align[head[0]] = "l"
        table.add_rows(rows)
        print(table, end="\n\n", flush=True)
        table.set_style(TableStyle.MARKDOWN)
        self.say(table.get_string())

    def plot(self, name, title, draw, size=(8, 3)):
        """`title` is what the plot says to whoever can't see it."""
        if not self.docs:
            return
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        figure.savefig(self.docs / f"{name}.svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
        self.say(f"![{title}]({self.docs.name}/{name}.svg)")

    def done(self):
        if self.docs:
            path = self.docs.with_suffix(".md")
            path.write_text("\n\n".join(self.text) + "\n")
            lines = (json.dumps({k: v for k, v in r.items() if k != "stacks"}) for r in self.results)
            (self.docs / "results.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


def ratios(results, op, **what):
    """(With, without the floor of C) of ours to C's, or None."""
    ours, c = (results.one("migrate", op=op, who=who, **what) for who in (RUST, C))
    floor = results.one("migrate", op="floor", who=C, **what)
    if not (ours and c):
        return None
    ours, c, floor = (row["median"] for row in (ours, c, floor))
    return ours / c, (ours - floor) / (c - floor)


def migrations(report):
    results = report.results
    rows = []
    cases = [(r["kind"], r["sas"]) for r in results.where("migrate", op="migrate", who=RUST)]
    for kind, sas in sorted(cases, key=lambda case: case[0] != "tunnel"):
        for op in DIRECT:
            what = {"kind": kind, "sas": sas, "op": op}
            found = ratios(results, **what)
            rows.append((kind + op.removeprefix("migrate"), f"{sas:,}",
                         spread(results.one("migrate", who=C, **what)),
                         spread(results.one("migrate", who=RUST, **what)),
                         *(f"{ratio:.3f}" for ratio in found or ()), *[""] * (2 * (not found))))
    report.table("XFRM_MSG_MIGRATE_STATE, instructions: median (least to most)",
                 ["SA", "other SAs", "C handler", "ours", "ratio", "without floor"], rows)


def alternatives(report):
    results, rows = report.results, []
    ops = [("request for an SA that isn't there", "floor", C), ("the same, ours", "floor", RUST),
           ("ours", "migrate", RUST), ("ours, in place", "in place", RUST),
           ("C handler", "migrate", C), ("C handler, in place", "in place", C),
           ("XFRM_MSG_MIGRATE, with a policy", "XFRM_MSG_MIGRATE", C),
           ("get, delete and add", "delete and add", C)]
    sizes = sorted({r["sas"] for r in results.where("migrate", kind="tunnel")})
    for name, op, who in ops:
        found = [results.one("migrate", kind="tunnel", op=op, who=who, sas=n) for n in sizes]
        rows.append((name, *(f"{row['median']:,}" for row in found)))
    report.table("Ways to move an SA in tunnel mode, without listeners, by number of other SAs",
                 ["instructions", *(f"{n:,}" for n in sizes)], rows)

    def draw(axes):
        picked = [(name, op, who) for name, op, who in ops[::-1] if op != "floor"]
        values = [results.one("migrate", kind="tunnel", op=op, who=who, sas=sizes[-1])["median"]
                  for _, op, who in picked]
        bars = axes.barh([name for name, *_ in picked], values,
                         color=[COLOURS[RUST if name.startswith("ours") else C]
                                for name, *_ in picked])
        axes.bar_label(bars, [f"{v:,}" for v in values], padding=3)
        floor = results.one("migrate", kind="tunnel", op="floor", who=C, sas=sizes[-1])["median"]
        axes.axvline(floor, color="black", linestyle=":")
        axes.set_xlabel(f"instructions among {sizes[-1]:,} other SAs (dotted: request for nothing)")
    report.plot("ways", "What each way to move an SA costs", draw)


def parts(stacks):
    """{part: instructions} of one request."""
    sums = dict.fromkeys((OUTSIDE, REDIRECT, *PARTS, REST), 0)
    for stack, count in stacks.items():
        names = stack.split(";")
        depth = max((n for n, name in enumerate(names) if any(h in name for h in HANDLERS)),
                    default=None)
        if depth is None:
            part = OUTSIDE
        elif "ftrace_trampoline" in names and not any("MigrateState5serve" in n for n in names):
            part = REDIRECT
        else:
            part = next((part for name in names[depth + 1:] for part, wanted in PARTS.items()
                         if any(w in name for w in wanted)), REST)
        sums[part] += count
    return sums


def breakdown(report):
    traces = report.results.where("trace")
    if not traces:
        return
    columns = {("ours" if t["who"] == RUST else "C handler") + ", a listener" * t["listeners"]:
               parts(t["stacks"]) for t in traces}
    report.table("Where the instructions of one request go (send() only)",
                 ["part", *columns],
                 [(part, *(f"{column[part]:,}" for column in columns.values()))
                  for part in next(iter(columns.values()))]
                 + [("all", *(f"{sum(column.values()):,}" for column in columns.values()))])

    def draw(axes):
        left = [0] * len(columns)
        colours = plt.get_cmap("tab20").colors
        for colour, part in zip(colours, next(iter(columns.values()))):
            values = [column[part] for column in columns.values()]
            axes.barh(list(columns), values, left=left, label=part, color=colour)
            left = [a + b for a, b in zip(left, values)]
        axes.invert_yaxis()
        axes.set_xlabel("instructions")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    report.plot("parts", "Parts of a migration, for both handlers", draw, (9, 3.5))


def wholes(results, **what):
    """(C's, ours) of each case."""
    grace = what.pop("grace")
    return [(c, results.one("whole", who=RUST, grace=grace, **{k: c[k] for k in (
        "sas", "op", "many", "listeners")})) for c in results.where("whole", who=C, **what)]


def whole_costs(report):
    rows = {}
    for grace in sorted({r["grace"] for r in report.results.where("whole", who=RUST)}):
        for c, ours in wholes(report.results, grace=grace):
            rows.setdefault((c["sas"], c["op"], c["many"], grace), []).extend(
                (spread(c), spread(ours), f"{ours['median'] / c['median']:.3f}"))
    if rows:
        moved = {"all": "each once", "one": "one as often"}
        columns = "C handler", "ours", "ratio"
        report.table("The whole cost of a move, instructions: median (least to most)",
                     ["SAs", "moved", "in a datagram", "found for", *columns,
                      *(column + ", a listener" for column in columns)],
                     [(f"{sas:,}", moved[op], many, f"{grace // 1000} s", *cells)
                      for (sas, op, many, grace), cells in rows.items()])


def others(row):
    """How many other SAs there are, but for one that happens to be there."""
    return row["sas"] // 1000 * 1000 or 1


def spis(report):
    results = report.results
    sizes = sorted({others(r) for r in results.where("spi")})
    if not sizes:
        return
    ops = {"wide": "wide range", "narrow": "256, all free", "full": "256, none free",
           "kept": "wide, and the SA stays", "new_and_delete": "NEWSA and DELSA",
           "floor": "request for nothing"}

    def found(op, who):
        return {others(r): r["median"] for r in results.where("spi", op=op, who=who)}
    report.table("ALLOCSPI with scope 2, and adding and deleting SAs, by number of other SAs",
                 ["instructions", *(f"{n:,}" for n in sizes)],
                 [(f"{text}, {name}", *(f"{costs[n]:,}" if n in costs else "" for n in sizes))
                  for op, text in ops.items() for name, who in (("kernel", C), ("module", RUST))
                  for costs in [found(op, who)]])

    def draw(axes):
        for name, who in ("kernel", C), ("module", RUST):
            for op, style in ("wide", "-"), ("full", "--"):
                costs = found(op, who)
                axes.plot(costs.keys(), costs.values(), style, marker="o", color=COLOURS[who],
                          label=f"{name}, {ops[op]}")
        axes.set(xscale="log", yscale="log", xlabel="other SAs", ylabel="instructions")
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    report.plot("spi", "What an SPI costs, by number of SAs", draw)


def shared(report):
    """The costs of an SPI that others have, by (SAs, whether in one chain)."""
    rows = report.results.where("shared")
    columns = sorted({(r["sas"], r["in_one_chain"]) for r in rows})
    if not rows:
        return
    kinds = [("kernel", C, 2)] + [(f"module, scope {n}", RUST, n) for n in range(3)]
    report.table("ALLOCSPI, inbound, of one SPI that so many outbound SAs have: given in scopes 0 "
                 "and 1, else refused",
                 ["instructions", *(f"{n:,}" + ", in one chain" * chain for n, chain in columns)],
                 [(text, *(f"{report.results.one('shared', who=who, scope=scope, sas=n, in_one_chain=chain)['median']:,}"
                           for n, chain in columns)) for text, who, scope in kinds])


def packet_pairs(results):
    """(Without the module, with it, what is done)."""
    for ours in results.where("packet", who=RUST):
        op = "both" if ours["op"] == "both" else "inbound"
        yield results.one("packet", who=C, op=op, kind=ours["kind"]), ours, ours["op"]


def packets(report):
    results, rows = report.results, []
    for r, ours, op in packet_pairs(results):
        way = {"both": "sent and received", "inbound": "received", "beside":
               "received while another SA is found at an old address",
               "moved": "received at the new address of an SA that is found at an old one",
               "late": "received at an old address"}[op]
        rows.append((f"{r['kind']}, {r['size']} bytes, {way}", spread(r), spread(ours),
                     f"{ours['median'] - r['median']:+}",
                     f"{100 * (ours['median'] / r['median'] - 1):+.2f} %"))
    if rows:
        report.table("A packet, instructions: median (least to most)",
                     ["packet", "without the module", "with it", "more", ""], rows)


def resolution(report):
    rows = report.results.where("resolve", op="resolve")
    if not rows:
        return
    direct, lag = RESOLUTION
    report.table("Asking for the handle of an SA, instructions more than reading it, by slave",
                 ["device of the SA", "median", "least", "most", "goal"],
                 [(r["kind"], r["median"], r["min"], r["max"], direct.get(r["kind"], lag))
                  for r in rows])
    by_kind = {}
    for op in SLAVES:
        for r in report.results.where("resolve", op=op):
            by_kind.setdefault(r["kind"], {})[op] = r["median"]
    base = by_kind.get("direct", {})
    report.table("What each slave adds, instructions, and compared with the device itself",
                 ["device of the SA", *SLAVES.values()],
                 [(kind, *(f"{ops[op]:,} ({ops[op] / base[op]:.2f})" for op in SLAVES))
                  for kind, ops in by_kind.items()])


def losses(report):
    rows = report.results.where("loss")
    if not rows:
        return
    report.table("Two hosts flood each other while both SAs of one are moved",
                 ["", "moves of each SA", "packets", "lost", "lost in 1,000 moves",
                  "received again", "numbers used again"],
                 [(r["who"], f"{r['moves']:,}", f"{r['sent']:,}", f"{r['lost']:,}",
                   f"{1000 * r['lost'] / r['moves']:,.1f}", f"{r['again']:,}", f"{r['reused']:,}")
                  for r in rows])

    def draw(axes):
        values = [1000 * r["lost"] / r["moves"] for r in rows]
        bars = axes.barh([r["who"] for r in rows], values,
                         color=[COLOURS[RUST if r["who"] == "ours" else C] for r in rows])
        axes.bar_label(bars, [f"{v:,.1f}" for v in values], padding=3)
        axes.set(xscale="symlog", xlabel="packets lost in 1,000 moves")
        axes.invert_yaxis()
    report.plot("loss", "Packets lost in each of four ways", draw, (8, 2))


def goals(report):
    """Each, and the worst that was measured."""
    results, rows = report.results, []

    def goal(what, value, limit, form=".3f"):
        rows.append((what, f"{value:{form}}", f"<= {limit}", "yes" if value <= limit else "NO"))
    for op in DIRECT:
        cases = [r for r in results.where("migrate", op=op, who=RUST) if r["kind"] != "CBC+HMAC"]
        seen = [found for r in cases if (found := ratios(results, op, kind=r["kind"], sas=r["sas"]))]
        for n, limits in enumerate((DIRECT, PURE)):
            goal(op + (", without floor" if n else ", with floor"), max(s[n] for s in seen),
                 limits[op])
    for (many, grace), limit in WHOLE.items():
        for listeners in 0, 1:
            seen = [ours["median"] / c["median"]
                    for c, ours in wholes(results, many=many, listeners=listeners, grace=grace)]
            if seen:
                goal(f"whole cost, {many} in a datagram" + f", found for {grace // 1000} s" * (
                    grace != 0) + ", a listener" * listeners, max(seen), limit)
    for bench, ops in ("migrate", list(DIRECT)), ("spi", ["wide", "narrow", "kept"]):
        for op in ops:
            seen = [r["median"] for r in results.where(bench, op=op, who=RUST)
                    if r.get("kind", "tunnel") == "tunnel"]
            if len(seen) > 1:
                goal(f"{op}: most SAs to fewest", seen[-1] / seen[0], 1.05)
    spis = {(r["op"], r["who"], others(r)): r["median"] for r in results.where("spi")}
    if spis:
        fewest, most = (f(sas for _, _, sas in spis) for f in (min, max))
        for op in "wide", "kept":
            goal(f"{op}, most SAs, to the kernel's with fewest",
                 spis[op, RUST, most] / spis[op, C, fewest], 1.0)
        goal("none of 256 free, most SAs", spis["full", RUST, most], FULL, "")
        goal("NEWSA and DELSA, with the module to without",
             max(spis["new_and_delete", RUST, sas] / spis["new_and_delete", C, sas]
                 for sas in (fewest, most)), 1.03)
    shared_ = {(r["scope"], r["in_one_chain"], r["sas"]): r["median"]
               for r in results.where("shared", who=RUST)}
    if shared_:
        fewest, most = (f(n for _, _, n in shared_) for f in (min, max))
        goal("an SPI that all SAs have, most to fewest, in the worst scope and place",
             max(shared_[scope, chain, most] / shared_[scope, chain, fewest]
                 for scope, chain, n in shared_ if n == most), 1.1)
    packets = list(packet_pairs(results))
    if packets:
        goal("a packet, with the module to without",
             max(ours["median"] / c["median"] for c, ours, op in packets if op != "late"), 1.01)
    for _, ours, op in packets:
        if op == "late":
            new = results.one("packet", who=RUST, op="moved", kind=ours["kind"])
            goal(f"a packet of {ours['size']} bytes at an old address to one at the new",
                 ours["median"] / new["median"], 1.05)
    for r in results.where("resolve", op="resolve"):
        goal(f"resolution, {r['kind']}", r["max"], RESOLUTION[0].get(r["kind"], RESOLUTION[1]), "")
    report.table("Goals: the worst of what was measured", ["", "measured", "goal", "met"], rows)


INTRODUCTION = """# Benchmarks

Written by `make bench`, which measures all of this anew; `make bench-quick` does the
essence in the terminal. The data are in [results.json](benchmarks/results.json).

A VM counts guest instructions instead of time (QEMU's `-icount`, one CPU), so the
figures are those of any host, however busy: medians differ by 0.1 % in one boot, and by
up to 1 % between boots. They say nothing of caches. The test kernel is optimized as
those of distributions are (-O2), and so are the C handler and the module. The C handler
has been measured without the module, then ours, then the C handler again, in one boot,
with the same SAs; both rounds of C are one figure here. A figure is what passes from
`send()` to the end of `recv()`; 20 ms lie between two requests, so that what RCU, timers
and the collector do afterwards is only part of what is called the *whole cost*.
The *floor* is a request to the C handler for an SA that isn't there: system calls, netlink and
acknowledgement. Ratios without floor compare the handlers themselves."""

MIGRATION = """## Moving an SA

An SA in tunnel mode with AES-GCM, or as it says, moves to another pair of addresses.
The C handler can't migrate SAs with offload, and what it makes of one with CBC+HMAC is
cheaper, but can't be used: it has no IV generator
([findings 1 and 2](upstream-findings.md)), so the goals leave it out. The C handler makes its notification
for nobody, too; so listeners cost it nothing, while ours costs less without any."""

BREAKDOWN = """QEMU has logged each instruction of some requests; this is the one of median length. What
is named takes all that it calls; of what ours does to insert an SA and to take out another
most is in "the handler itself"."""

WHOLE_COSTS = """## The whole cost of a move

With all that is left for later: RCU callbacks, timers, workers, the collector. SAs in transport
mode with AES-GCM are moved, each of them once or one of them as often, by one request in
a datagram or 500, without acknowledgements; those that have been replaced are not found at their
old addresses, as with the C handler, or are for 5 s, which is the default. These stay in
memory for so long, so the allocator has to bring forth others meanwhile, and to take them back
all at once. A process of `SCHED_IDLE` counts until 9 s after
the last `send()`; how much passes for each count has been measured while nothing was sent.
What passed besides, divided by the moves, is the cost of one. Who listens reads when all is
over. The C handler's collector begins at once, interrupts whoever sends and waits for RCU; that
is dear with one request in a datagram, and differs from time to time. The C handler also starts a
timer of a second for each new SA, ours only where there are limits of time."""

PACKETS = """## Per packet

All on one CPU, and without a queue: from `send()` to `recv()` in another network namespace; or
received only, of frames that had been sent before. While SAs are found at old addresses, a packet
pays nothing for it unless the last bits of its SPI are those of one of them; then about 250
instructions, and 110 more while its own SA is younger than `migrate_grace`. One that is found
at an old address pays about 950."""

HANDLES = """## The handle of an SA on a device

A driver calls `xfrm_dev_state_lower_handle()`. The kernel's own share of it for a
LAG, with an RCU read-side critical section and an indirect call, is about 23
instructions."""

LOSSES = """## Packets lost

In a VM with two CPUs that counts time: the figures of other runs differ."""


def main():
    results = Results(sys.argv[1])
    docs = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    matplotlib.use("svg")
    # The same data make the same files.
    matplotlib.rcParams.update({"svg.hashsalt": "xfrm-next", "svg.fonttype": "none"})
    if docs:
        docs.mkdir(exist_ok=True)
    report = Report(results, docs)
    for text, *chapters in ((INTRODUCTION, goals), (MIGRATION, alternatives, migrations),
                            (BREAKDOWN, breakdown), (WHOLE_COSTS, whole_costs),
                            ("## An SPI", spis, shared), (PACKETS, packets),
                            (HANDLES, resolution), (LOSSES, losses)):
        report.say(text)
        for chapter in chapters:
            chapter(report)
    report.done()


if __name__ == "__main__":
    main()
