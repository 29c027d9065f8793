//! The GPU's kernels against the CPU's, without a GPU: `kernels.cu` compiled by a C++ compiler, run by the emulator of `host.h`.

use std::ffi::{CString, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError};

use candle_core::bail;
use half::{bf16, f16};

use super::super::chunked;
use super::super::cuda::plan::{self, Launch, Machine, NormKind, Number, Output, Rows};
use super::*;

/// As `host.h` exports a kernel: blocks, threads, addresses of the arguments, and whether threads run from last to first.
type Kernel = unsafe extern "C" fn(*const u32, *const u32, *const *const c_void, bool);

/// The compiled kernels; loaded until the process ends.
struct Library(*mut c_void);

// SAFETY: the handle is only passed to `dlsym`, which any thread may call.
unsafe impl Send for Library {}

/// One for all tests, and one call at a time: the threads of a block take turns through variables of the library. Loading a copy
/// for each test would not do, because a loader makes the variables of templates one in all copies (`STB_GNU_UNIQUE`).
static KERNELS: LazyLock<Option<Mutex<Library>>> = LazyLock::new(|| Library::compiled().map(Mutex::new));

impl Library {
    /// None where this machine has no C++ compiler: nothing else here needs one.
    fn compiled() -> Option<Library> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/models/layers/cuda/kernels.cu");
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("kernels.so");
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let mut command = Command::new(&compiler);
        command.args(["-x", "c++", "-std=c++17", "-O1", "-Wno-unknown-pragmas", "-shared", "-fPIC", "-o"]);
        let output = match command.arg(&library).arg(&source).output() {
            Ok(output) => output,
            Err(error) => {
                eprintln!("skipped: the GPU's kernels, `{compiler}` cannot be started: {error}");
                return None;
            }
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let path = CString::new(library.to_str().unwrap()).unwrap();
        // SAFETY: the file was compiled just now from our own source; loading it runs no code but C++'s initialisers.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        assert!(!handle.is_null(), "the compiled kernels cannot be loaded");
        Some(Library(handle))
    }

    fn kernel(&self, name: &str) -> Kernel {
        let symbol = CString::new(name).unwrap();
        // SAFETY: the handle is of a loaded library, the name ends in NUL.
        let address = unsafe { libc::dlsym(self.0, symbol.as_ptr()) };
        assert!(!address.is_null(), "there is no kernel `{name}`");
        // SAFETY: every symbol of such a name is exported by the macro KERNEL of host.h, with this signature.
        unsafe { std::mem::transmute::<*mut c_void, Kernel>(address) }
    }
}

/// Values in the emulator's memory.
struct Buffer {
    words: Vec<u128>,
    /// Where they begin, in bytes.
    start: usize,
    len: usize,
    dtype: DType,
}

impl Buffer {
    /// Filled with what no kernel may leave: NaN in all three types.
    fn poisoned(len: usize, dtype: DType, start: usize) -> Buffer {
        let bytes = start + len * dtype.size_in_bytes();
        Buffer { words: vec![u128::MAX; bytes.div_ceil(16)], start, len, dtype }
    }

    /// Beginning `start` bytes after an address that 16 divides.
    fn of(tensor: &Tensor, dtype: DType, start: usize) -> Buffer {
        let mut buffer = Buffer::poisoned(tensor.elem_count(), dtype, start);
        let values: Vec<f32> = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let end = start + buffer.len * dtype.size_in_bytes();
        let bytes = &mut bytemuck::cast_slice_mut::<u128, u8>(&mut buffer.words)[start..end];
        match dtype {
            DType::BF16 => {
                let narrow: Vec<bf16> = values.iter().map(|x| bf16::from_f32(*x)).collect();
                bytes.copy_from_slice(bytemuck::cast_slice(&narrow));
            }
            DType::F16 => {
                let narrow: Vec<f16> = values.iter().map(|x| f16::from_f32(*x)).collect();
                bytes.copy_from_slice(bytemuck::cast_slice(&narrow));
            }
            _ => bytes.copy_from_slice(bytemuck::cast_slice(&values)),
        }
        buffer
    }

    /// Unsigned numbers.
    fn of_numbers(numbers: &[u32]) -> Buffer {
        let mut buffer = Buffer::poisoned(numbers.len(), DType::U32, 0);
        bytemuck::cast_slice_mut::<u128, u32>(&mut buffer.words)[..numbers.len()].copy_from_slice(numbers);
        buffer
    }

    fn values(&self) -> Vec<f32> {
        let bytes = &bytemuck::cast_slice::<u128, u8>(&self.words)[self.start..];
        let bytes = &bytes[..self.len * self.dtype.size_in_bytes()];
        let pairs = || bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        match self.dtype {
            DType::BF16 => pairs().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
            DType::F16 => pairs().map(|bits| f16::from_bits(bits).to_f32()).collect(),
            _ => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        }
    }

    fn address(&self) -> *const u8 {
        // SAFETY: `start` lies inside the words, or at their end where there are no values.
        unsafe { self.words.as_ptr().cast::<u8>().add(self.start) }
    }
}

/// Runs kernels of one type, in both orders of threads.
struct Emulator<'a> {
    library: &'a Mutex<Library>,
    dtype: DType,
    /// Where the buffers that it makes begin.
    start: usize,
}

impl Emulator<'_> {
    fn run_once(&self, launch: &Launch, inputs: &[&Buffer], backwards: bool) -> Vec<Buffer> {
        let made = |output: &Output| {
            let (dtype, start) = if output.is_single { (DType::F32, 0) } else { (self.dtype, self.start) };
            Buffer::poisoned(output.len, dtype, start)
        };
        let outputs: Vec<Buffer> = launch.outputs.iter().map(made).collect();
        let pointers: Vec<*const u8> = inputs.iter().copied().chain(&outputs).map(Buffer::address).collect();
        let pointers = pointers.iter().map(|pointer| std::ptr::from_ref(pointer).cast());
        let numbers = launch.numbers.iter().map(|number| match number {
            Number::Int(number) => std::ptr::from_ref(number).cast(),
            Number::Long(number) => std::ptr::from_ref(number).cast(),
            Number::Float(number) => std::ptr::from_ref(number).cast(),
        });
        let arguments: Vec<*const c_void> = pointers.chain(numbers).collect();
        let library = self.library.lock().unwrap_or_else(PoisonError::into_inner);
        let kernel = library.kernel(&format!("{}_{}", launch.kernel, self.dtype.as_str()));
        // SAFETY: `arguments` are the addresses of the kernel's arguments in order, as plan.rs lists them; buffers have the
        // lengths that it asks for, and nothing else reads the outputs meanwhile.
        unsafe { kernel(launch.grid.as_ptr(), launch.block.as_ptr(), arguments.as_ptr(), backwards) };
        outputs
    }
}

impl Machine for Emulator<'_> {
    type Buffer = Buffer;

    fn value_bytes(&self) -> usize {
        self.dtype.size_in_bytes()
    }

    fn run(&self, launch: Launch, inputs: &[&Buffer]) -> Result<Vec<Buffer>> {
        let outputs = self.run_once(&launch, inputs, false);
        for (output, again) in outputs.iter().zip(self.run_once(&launch, inputs, true)) {
            if output.words != again.words {
                bail!("`{}` depends on the order of its threads", launch.kernel)
            }
        }
        Ok(outputs)
    }
}

/// How much one rounding to a type may change a value: so much of its size, and half a step where values are too small for that.
fn rounding(dtype: DType) -> [f32; 2] {
    match dtype {
        DType::BF16 => [f32::powi(2.0, -8), 0.0],
        // The smallest normal float16 is 2^-14; below it they are 2^-24 apart.
        DType::F16 => [f32::powi(2.0, -11), f32::powi(2.0, -25)],
        _ => [0.0; 2],
    }
}

/// Every value is the expected one, rounded once to the buffer's type.
fn assert_rounded(what: &str, got: &Buffer, expected: &Tensor) {
    let expected: Vec<f32> = expected.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    let size = expected.iter().fold(1e-30f32, |a, b| a.max(b.abs()));
    let values = got.values();
    assert_eq!(values.len(), expected.len(), "{what}");
    for (i, (got_value, value)) in values.iter().zip(&expected).enumerate() {
        let [relative, absolute] = rounding(got.dtype);
        let allowed = relative * value.abs() + absolute + 5e-6 * size;
        // NaN must not pass.
        let is_near = (got_value - value).abs() <= allowed;
        assert!(is_near, "{what} in {:?}: value {i} is {got_value}, not {value}", got.dtype);
    }
}

/// Calls `f` for each type and for buffers that begin where 16 bytes can be read at once, and where they cannot.
fn for_each_type(f: impl Fn(&Emulator, &dyn Fn(&Tensor) -> Buffer)) {
    let Some(library) = &*KERNELS else { return };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for start in [0, dtype.size_in_bytes()] {
            let emulator = Emulator { library, dtype, start };
            f(&emulator, &|tensor| Buffer::of(tensor, dtype, start));
        }
    }
}

/// Random values of a shape that `dtype` can hold, in float32.
fn drawn(noise: &mut Noise, shape: &[usize], dtype: DType) -> Tensor {
    noise.tensor(shape).to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap()
}

/// A narrow row, a warp's, an odd one, a block's, and one that is both wide and odd; many rows.
const SHAPES: [[usize; 2]; 6] = [[3, 8], [5, 37], [150, 192], [9, 1024], [4, 2048], [3, 1033]];

#[test]
fn the_gpus_norms_are_the_cpus() {
    for_each_type(|emulator, buffer| {
        for shape in SHAPES {
            let mut noise = Noise(shape[1] as u64);
            let rows = Rows::of(shape[0] * shape[1], shape[1]);
            let mut draw = |shape: &[usize]| drawn(&mut noise, shape, emulator.dtype);
            let (x, w, b, gy) = (draw(&shape), draw(&shape[1..]), draw(&shape[1..]), draw(&shape));
            let (bx, bw, bb, bgy) = (buffer(&x), buffer(&w), buffer(&b), buffer(&gy));
            let rms = |x: &[Tensor]| RmsNorm::new(x[1].clone(), 1e-5).forward(&x[0]);
            let layer = |x: &[Tensor]| LayerNorm::new(x[1].clone(), x[2].clone(), 1e-5).forward(&x[0]);
            let inputs = [x, w, b];
            for (kind, function, count) in [
                (NormKind::Rms(1e-5), &rms as &dyn Fn(&[Tensor]) -> Result<Tensor>, 2),
                (NormKind::Layer(1e-5), &layer, 3),
            ] {
                let (y, gradients) = differentiate(function, &inputs[..count], &gy);
                let parameters = [&bw, &bb];
                let got = plan::norm(emulator, kind, rows, &bx, &parameters[..count - 1]).unwrap();
                assert_rounded("norm", &got, &y);
                let (by_x, by_weight) =
                    plan::norm_gradients(emulator, kind, rows, [&bx, &bw, &bgy], true).unwrap();
                assert_rounded("gradient of x", &by_x, &gradients[0]);
                let by_bias = gy.sum(0).unwrap();
                let expected = [&gradients[1], gradients.get(2).unwrap_or(&by_bias)];
                assert_rounded(
                    "gradients of the parameters",
                    &by_weight.unwrap(),
                    &Tensor::stack(&expected, 0).unwrap(),
                );
            }
        }
    });
}

#[test]
fn the_gpus_bias_is_on_each_row() {
    for_each_type(|emulator, buffer| {
        for shape in SHAPES {
            let mut noise = Noise(shape[1] as u64);
            let mut draw = |shape: &[usize]| drawn(&mut noise, shape, emulator.dtype);
            let (x, bias) = (draw(&shape), draw(&shape[1..]));
            let sizes = [shape[0] * shape[1], shape[1]];
            let got = plan::add_bias(emulator, sizes, [&buffer(&x), &buffer(&bias)]).unwrap();
            assert_rounded("bias", &got, &x.broadcast_add(&bias).unwrap());
        }
    });
}

#[test]
fn the_gpus_adamw_is_the_formula() {
    for_each_type(|emulator, buffer| {
        for len in [1, 37, 4096, 5003].into_iter().filter(|_| emulator.dtype == DType::F32) {
            let mut noise = Noise(len as u64);
            let mut draw = || drawn(&mut noise, &[len], DType::F32);
            let (w, g, m, v) = (draw(), draw(), draw(), draw().sqr().unwrap());
            let constants = AdamWConstants {
                beta1: 0.9,
                beta2: 0.95,
                epsilon: 1e-8,
                root_correction: 0.3,
                rate: 0.01,
                decay: 0.99,
                scale: 0.5,
            };
            let inputs = [&buffer(&w), &buffer(&g), &buffer(&m), &buffer(&v)];
            let got = plan::adamw(emulator, len, constants, inputs).unwrap();
            let formula = || -> Result<[Tensor; 3]> {
                let g = (g * 0.5)?;
                let m = ((m * 0.9)? + (&g * 0.1)?)?;
                let v = ((v * 0.95)? + (g.sqr()? * 0.05)?)?;
                let root = ((v.sqrt()? / 0.3)? + 1e-8)?;
                Ok([((w * 0.99)? - ((&m / root)? * 0.01)?)?, m, v])
            };
            for (got, expected) in got.iter().zip(formula().unwrap()) {
                assert_rounded("adamw", got, &expected);
            }
        }
    });
}

#[test]
fn the_gpus_softmax_is_the_plain_one() {
    for_each_type(|emulator, buffer| {
        for [heads, queries, keys] in [[2, 3, 8], [3, 5, 37], [1, 40, 192], [2, 2, 2048], [1, 3, 1033]] {
            let mut noise = Noise(keys as u64);
            let shape = [heads * queries, keys];
            let scores = drawn(&mut noise, &shape, emulator.dtype);
            // One key, a window in the middle, and from there to the end.
            let sight = |query: usize| match query % 3 {
                0 => [query % keys, query % keys + 1],
                1 => [keys / 3, keys / 3 + keys.div_ceil(2)],
                _ => [keys / 3, keys],
            };
            let sights: Vec<Sight> = (0..queries).map(sight).collect();
            let rows = Rows { count: shape[0], width: keys };
            let numbers: Vec<u32> = sights.iter().flatten().map(|&key| key as u32).collect();
            let inputs = [&buffer(&scores), &Buffer::of_numbers(&numbers)];
            let weights = plan::softmax(emulator, rows, queries, 0.7, inputs).unwrap();
            let expected = chunked::plain_weights(&scores, &sights, 0.7).unwrap();
            assert_rounded("softmax", &weights, &expected);
            let gp = drawn(&mut noise, &shape, emulator.dtype);
            let (_, gradients) =
                differentiate(&|x| chunked::plain_weights(&x[0], &sights, 0.7), &[scores], &gp);
            // From weights without a rounding of their own, so that the gradient has one alone.
            if emulator.dtype == DType::F32 {
                let got = plan::softmax_gradient(emulator, rows, 0.7, [&weights, &buffer(&gp)]).unwrap();
                assert_rounded("gradient of softmax", &got, &gradients[0]);
            }
            let rounded = Tensor::from_vec(weights.values(), &shape[..], &Device::Cpu).unwrap();
            let expected = chunked::plain_slopes(&rounded, &gp, 0.7).unwrap();
            let got = plan::softmax_gradient(emulator, rows, 0.7, [&weights, &buffer(&gp)]).unwrap();
            assert_rounded("gradient of softmax, from its weights", &got, &expected);
        }
    });
}

#[test]
fn the_gpus_rotary_embedding_is_the_cpus() {
    for_each_type(|emulator, buffer| {
        for [tokens, heads, width] in [[1, 1, 4], [5, 3, 16], [7, 2, 72], [33, 4, 128]] {
            let mut noise = Noise(width as u64);
            let positions: Vec<u32> = (0..tokens as u32).map(|i| i * 3).collect();
            let rope = Rope::new(&positions, width, 1e4, &Device::Cpu).unwrap();
            let x = drawn(&mut noise, &[tokens, heads, width], emulator.dtype);
            let gy = drawn(&mut noise, &[tokens, heads, width], emulator.dtype);
            let (y, gradients) = differentiate(&|x| rope.apply(&x[0]), std::slice::from_ref(&x), &gy);
            let [cos, sin] = [rope.cos(), rope.sin()].map(|table| Buffer::of(table, DType::F32, 0));
            let sizes = [tokens, heads, width / 2];
            let got = plan::rope(emulator, sizes, 1.0, [&buffer(&x), &cos, &sin]).unwrap();
            assert_rounded("rope", &got, &y);
            let got = plan::rope(emulator, sizes, -1.0, [&buffer(&gy), &cos, &sin]).unwrap();
            assert_rounded("gradient of rope", &got, &gradients[0]);
        }
    });
}

#[test]
fn the_gpus_activations_are_the_cpus() {
    type Function = fn(&Tensor) -> Result<Tensor>;
    let functions: [(&'static str, &'static str, Function); 4] = [
        ("silu", "silu_grad", silu),
        ("gelu", "gelu_grad", gelu),
        ("gelu_tanh", "gelu_tanh_grad", gelu_tanh),
        ("quick_gelu", "quick_gelu_grad", quick_gelu),
    ];
    for_each_type(|emulator, buffer| {
        for len in [1, 37, 4096, 5003] {
            let mut noise = Noise(len as u64);
            let mut draw = || (drawn(&mut noise, &[len], emulator.dtype) * 4.0).unwrap();
            let (x, up, gy) = (draw(), draw(), draw());
            let (bx, bup, bgy) = (buffer(&x), buffer(&up), buffer(&gy));
            for (forward, backward, function) in functions {
                let (y, gradients) = differentiate(&|x| function(&x[0]), std::slice::from_ref(&x), &gy);
                let got = plan::pointwise(emulator, forward, len, 1, &[&bx]).unwrap();
                assert_rounded(forward, &got[0], &y);
                let got = plan::pointwise(emulator, backward, len, 1, &[&bx, &bgy]).unwrap();
                assert_rounded(backward, &got[0], &gradients[0]);
            }
            let (y, gradients) = differentiate(&|x| swiglu(&x[0], &x[1]), &[x, up], &gy);
            let got = plan::pointwise(emulator, "swiglu", len, 1, &[&bx, &bup]).unwrap();
            assert_rounded("swiglu", &got[0], &y);
            let got = plan::pointwise(emulator, "swiglu_grad", len, 2, &[&bx, &bup, &bgy]).unwrap();
            assert_rounded("gradient of the gate", &got[0], &gradients[0]);
            assert_rounded("gradient of what it gates", &got[1], &gradients[1]);
        }
    });
}
