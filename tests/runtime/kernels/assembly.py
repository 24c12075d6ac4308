"""The assembly of every tile, and of an epilogue of each source, for a processor that need not be this one.

`python assembly.py TRIPLE`; NUMBA_CPU_NAME and NUMBA_CPU_FEATURES name the processor. Prints JSON: function -> its
instructions, "mnemonic operands" each.
"""

import json
import sys
from functools import partial

import llvmlite.binding as llvm
from llvmlite import ir


def main(triple: str) -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    llvm.get_process_triple = lambda: triple  # what the kernels take for this machine

    from bitplane.runtime.kernels import epilogue, fields, tiles
    from bitplane.runtime.kernels.shapes import TILES
    from bitplane.runtime.kernels.target import cpu_features, cpu_name

    functions = {f"{t.kind} {t}": (8, partial(tiles._emit_tiles, t)) for t in TILES}
    for source in fields.SOURCES:
        emit = partial(epilogue._emit_row_function, source, fields.QUANT_DIVIDE)
        functions[f"epilogue {source}"] = (10, emit)
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu_name(), features=cpu_features(), opt=3)
    out = {name: instructions(triple, machine, count, emit) for name, (count, emit) in functions.items()}
    sys.stdout.write(json.dumps(out))


def instructions(triple, machine, count, emit) -> list[str]:
    """Emit a function of `count` integers into a module of its own, optimize it and read its assembly."""
    module = ir.Module("m")
    module.triple, module.data_layout = triple, str(machine.target_data)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * count), "f")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    emit(builder, list(function.args))
    builder.ret_void()
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(parsed, passes)
    lines = (line.split("#")[0].split("//")[0].strip() for line in machine.emit_assembly(parsed).splitlines())
    return [" ".join(line.split()) for line in lines if line and not line.startswith(".") and not line.endswith(":")]


if __name__ == "__main__":
    main(sys.argv[1])
