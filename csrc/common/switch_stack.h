// Goes from one stack to another by hand, for fibers; x86-64 and aarch64 (the latter never ran).
#pragma once

namespace shim {

// Stores this stack's pointer in *save and goes on where `to` was stored.
extern "C" void switch_stack(void **save, void *to) __asm__("hrm_fast_switch_stack");
#if defined(__x86_64__)
constexpr bool kFibers = true;
constexpr int kFrame = 8,
              kReturn = 6; // words that a stored stack begins with; which is the address
__asm__(".text\n.p2align 4\nhrm_fast_switch_stack:\n"
        "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
        "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
        "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n");
#elif defined(__aarch64__)
constexpr bool kFibers = true;
constexpr int kFrame = 20, kReturn = 11;
__asm__(".text\n.p2align 4\nhrm_fast_switch_stack:\nsub sp, sp, #160\n"
        "stp x19, x20, [sp]\nstp x21, x22, [sp, #16]\nstp x23, x24, [sp, #32]\n"
        "stp x25, x26, [sp, #48]\nstp x27, x28, [sp, #64]\nstp x29, x30, [sp, #80]\n"
        "stp d8, d9, [sp, #96]\nstp d10, d11, [sp, #112]\nstp d12, d13, [sp, #128]\n"
        "stp d14, d15, [sp, #144]\nmov x9, sp\nstr x9, [x0]\nmov sp, x1\n"
        "ldp x19, x20, [sp]\nldp x21, x22, [sp, #16]\nldp x23, x24, [sp, #32]\n"
        "ldp x25, x26, [sp, #48]\nldp x27, x28, [sp, #64]\nldp x29, x30, [sp, #80]\n"
        "ldp d8, d9, [sp, #96]\nldp d10, d11, [sp, #112]\nldp d12, d13, [sp, #128]\n"
        "ldp d14, d15, [sp, #144]\nadd sp, sp, #160\nret\n");
#else
constexpr bool kFibers = false;
constexpr int kFrame = 2, kReturn = 0;
inline void switch_stack(void **, void *) {}
#endif

} // namespace shim
