"""Exchanges and memory traffic read off texts as the compilers for CPUs and TPUs write them."""

import pytest

from jaxtl.profiling.hlo import Collective, collectives, memory_bytes

LINE = "  %x = f32[64,4]{1,0} all-reduce(%y), channel_id=1, replica_groups=GROUPS, to_apply=%add"
MODULE = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

BODY
ENTRY %main (p: f32[64,4]) -> f32[64,4] {
  %y = f32[64,4]{1,0} parameter(0)
LINES
}
"""


def module(*lines, body=""):
    return MODULE.replace("LINES", "\n".join(lines)).replace("BODY", body)


@pytest.mark.parametrize(
    ("groups", "members"),
    [
        ("{}", (0, 1, 2, 3, 4, 5, 6, 7)),
        ("{{0,4},{1,5},{2,6},{3,7}}", (0, 4)),
        ("[4,2]<=[8]", (0, 1)),
        ("[2,4]<=[4,2]T(1,0)", (0, 2, 4, 6)),
        ("mesh['axis_0'=8,'axis_1'=1] {'axis_0'}", (0, 1, 2, 3, 4, 5, 6, 7)),
        ("mesh['axis_0'=4,'axis_1'=1,'axis_2'=2] {'axis_2'}", (0, 1)),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_0'}", (0, 2, 4, 6)),
        ("mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_1'}", (0, 2, 4, 6)),
        ("mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_0'}", (0, 1)),
        ("mesh['axis_0'=2,'axis_1'=2,'axis_2'=2] {'axis_0','axis_2'}", (0, 1, 4, 5)),
    ],
)
def test_groups_are_read_in_every_form(groups, members):
    found = collectives(module(LINE.replace("GROUPS", groups)), 8)
    assert found == [Collective("all-reduce", 1024.0, members, 1)]


def test_a_form_that_is_not_known_is_no_guess():
    with pytest.raises(ValueError, match="unknown form"):
        collectives(module(LINE.replace("GROUPS", "mesh['axis_0'=8] {'axis_0':(1)2}")), 8)


@pytest.mark.parametrize(
    ("line", "kind", "payload", "sent"),
    [
        # An array of 1,024 bytes in all, on four devices.
        ("f32[256]{0} all-reduce(%y), replica_groups={}", "all-reduce", 1024, 1536),
        ("(bf16[256]{0:T(256)(128)(2,1)}, f32[128]{0}) all-reduce(%y), replica_groups={}", "all-reduce", 1024, 1536),
        ("f32[256]{0} all-gather(%y), replica_groups={}, dimensions={0}", "all-gather", 1024, 768),
        ("(f32[64]{0}, f32[256]{0}) all-gather-start(%y), replica_groups={}", "all-gather", 1024, 768),
        ("f32[64]{0} reduce-scatter(%y), replica_groups={}, to_apply=%add", "reduce-scatter", 1024, 768),
        ("s8[1024]{0} all-to-all(%y), replica_groups={}", "all-to-all", 1024, 768),
        ("f32[256]{0} collective-permute(%y), source_target_pairs={{1,2},{2,1}}", "collective-permute", 1024, 1024),
        (
            "(f32[256], f32[256]) collective-permute-start(%y), source_target_pairs={{0,1}}",
            "collective-permute",
            1024,
            1024,
        ),
    ],
)
def test_bytes_of_each_kind(line, kind, payload, sent):
    (found,) = collectives(module(f"  %x = {line}"), 4)
    assert (found.kind, found.payload, found.sent) == (kind, payload, sent)


def test_a_loop_counts_as_often_as_it_runs_and_a_device_alone_sends_nothing():
    body = "%body (p: f32[]) -> f32[] {\n" + LINE.replace("GROUPS", "[1,8]<=[8]") + "\n}\n"
    loop = '  %w = f32[] while(%y), condition=%add, body=%body, backend_config={"known_trip_count":{"n":"12"}}'
    found = collectives(module(loop, LINE.replace("GROUPS", "[8,1]<=[8]"), body=body), 8)
    assert [(one.times, one.payload) for one in found] == [(12, 1024.0)]


def test_what_goes_on_beside_other_work_counts_once_and_a_fused_scatter_as_one():
    piece = 'f32[64]{0} all-gather(%y), channel_id=7, replica_groups={}, frontend_attributes={chain_id="3"}'
    body = "".join(f"%async_collective_fusion.{i} (p: f32[]) -> f32[] {{\n  %x = {piece}\n}}\n\n" for i in range(3))
    body += "%all-reduce-scatter.1 (p: f32[]) -> f32[] {\n" + LINE.replace("GROUPS", "{}") + "\n}\n"
    calls = [f"  %f{i} = f32[] fusion(%y), kind=kCustom, calls=%async_collective_fusion.{i}" for i in range(3)]
    calls.append("  %s = f32[] fusion(%y), kind=kCustom, calls=%all-reduce-scatter.1")
    found = collectives(module(*calls, body=body), 8)
    assert [(one.kind, one.payload, one.blocking) for one in found] == [
        ("all-gather", 256.0, False),
        ("reduce-scatter", 1024.0, True),
    ]


def test_memory_traffic_leaves_out_the_fast_memory_and_names():
    text = module(
        "  %near = (f32[64,4]{1,0}, f32[64,4]{1,0:T(8,128)S(1)}, u32[]{:S(2)}) copy-start(%y)",  # 1,024 bytes
        "  %done = f32[64,4]{1,0:T(8,128)S(1)} copy-done(%near)",
        "  %part = ((f32[64,4]{1,0}), f32[16,4]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%y), slice={[0:16], [0:4]}",  # 256
        "  %got = f32[16,4]{1,0:S(1)} slice-done(%part)",
        "  %z = f32[64,4]{1,0:S(1)} fusion(%done, %got), kind=kLoop, calls=%add",  # 0
        "  ROOT %out = f32[64,4]{1,0} fusion(%z, %y), kind=kLoop, calls=%add",  # 2,048
    )
    assert memory_bytes(text) == 1024 + 256 + 2048
