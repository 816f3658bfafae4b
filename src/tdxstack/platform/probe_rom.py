"""A 64 KiB firmware that does what every guest does first, and says so: the probe of accelerators runs it.

From the reset vector it goes to protected mode, builds page tables for 4 GiB, enters long mode, uses the FPU, an SSE
register and CPUID, and writes :data:`EXIT_VALUE` to QEMU's ``isa-debug-exit`` device at :data:`EXIT_PORT`. Some hosts
have a ``/dev/kvm`` that runs real-mode code and then fails at the first FPU instruction. Assembled from::

    .code16
    start:
        cli
        lgdtl %cs:gdtr
        mov %cr0, %eax
        or $1, %al
        mov %eax, %cr0
        ljmpl $8, $(prot + 0xffff0000)
    .code32
    prot:
        mov $16, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        /* page tables at 0x1000: PML4, 0x2000 PDPT with 1G? use 4 PDs of 2M pages at 0x3000..0x6fff */
        xor %eax, %eax
        mov $0x1000, %edi
        mov $(6*1024), %ecx
        rep stosl
        movl $0x2003, 0x1000
        movl $0x3003, 0x2000
        movl $0x4003, 0x2008
        movl $0x5003, 0x2010
        movl $0x6003, 0x2018
        mov $0x3000, %edi
        mov $0x83, %eax
        mov $2048, %ecx
    1:  mov %eax, (%edi)
        movl $0, 4(%edi)
        add $0x200000, %eax
        add $8, %edi
        loop 1b
        mov $0x1000, %eax
        mov %eax, %cr3
        mov %cr4, %eax
        or $0x620, %eax   /* PAE, OSFXSR, OSXMMEXCPT */
        mov %eax, %cr4
        mov $0xc0000080, %ecx
        rdmsr
        or $0x100, %eax
        wrmsr
        mov %cr0, %eax
        or $0x80000000, %eax
        and $0xfffffffb, %eax
        or $2, %eax
        mov %eax, %cr0
        ljmpl $24, $(long + 0xffff0000)
    .code64
    long:
        mov $0x8000, %rsp
        fwait
        fninit
        fld1
        fistpl 0x7000
        movl 0x7000, %eax
        cmp $1, %eax
        jne fail
        movd %eax, %xmm0
        paddd %xmm0, %xmm0
        movd %xmm0, %ebx
        xor %eax, %eax
        push %rbx
        cpuid
        pop %rbx
        cmp $2, %ebx
        jne fail
        mov $0x31, %al
        out %al, $0xf4
    fail:
        hlt
        jmp fail
    .align 8
    gdt: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff
    gdtr: .word gdtr - gdt - 1
        .long gdt + 0xffff0000

(linked at 0xF000, ``as --64``; the reset vector at 0xFFF0 jumps there).
"""

from __future__ import annotations

EXIT_PORT = 0xF4
EXIT_VALUE = 0x31
#: isa-debug-exit ends QEMU with this status.
EXIT_STATUS = EXIT_VALUE << 1 | 1

ROM_SIZE = 64 * 1024
_START = 0xF000
_RESET_VECTOR = 0xFFF0
_CODE = bytes.fromhex(
    "fa2e660f011620f10f20c00c010f22c066ea18f0ffff0800b8100000008ed88ec08ed031c0bf00100000b900180000f3"
    "abc7050010000003200000c7050020000003300000c7050820000003400000c7051020000003500000c7051820000003"
    "600000bf00300000b883000000b9000800008907c7470400000000050000200083c708e2edb8001000000f22d80f20e0"
    "0d200600000f22e0b9800000c00f320d000100000f300f20c00d0000008083e0fb83c8020f22c0eabef0ffff180048c7"
    "c4008000009bdbe3d9e8db1c25007000008b04250070000083f801751b660f6ec0660ffec0660f7ec331c0530fa25b83"
    "fb027504b031e6f4f4ebfd0f1f4400000000000000000000ffff0000009bcf00ffff00000093cf00ffff0000009baf00"
    "1f0000f1ffff"
)


def rom() -> bytes:
    """The firmware file."""
    data = bytearray(ROM_SIZE)
    data[_START : _START + len(_CODE)] = _CODE
    jump = b"\xe9" + ((_START - _RESET_VECTOR - 3) & 0xFFFF).to_bytes(2, "little")
    data[_RESET_VECTOR : _RESET_VECTOR + len(jump)] = jump
    return bytes(data)
