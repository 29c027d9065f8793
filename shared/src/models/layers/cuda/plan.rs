//! How each kernel of `kernels.cu` is launched, and which ones make an operation: the same for the GPU and for the emulator
//! that tests them on a processor.

use candle_core::Result;

use super::super::AdamWConstants;

/// Threads of a block where each has elements of its own.
const THREADS: u32 = 256;
/// Threads of a warp, which is what a narrow row gets.
const WARP: u32 = 32;
/// Widest row that a warp does alone; wider ones get a block.
const WARP_WIDTH: usize = 1024;
/// Rows whose share of a weight's gradient one thread adds up; fixed, so that the order of additions is.
const CHUNK: usize = 64;
/// Bytes that a thread reads at a time.
const ACCESS: usize = 16;

/// A kernel's call: pointers to its inputs, then to its outputs, then its numbers.
#[derive(Debug)]
pub(in super::super) struct Launch {
    /// Its name without the type.
    pub(in super::super) kernel: &'static str,
    /// Blocks, in x and y.
    pub(in super::super) grid: [u32; 2],
    /// Threads of each, in x and y.
    pub(in super::super) block: [u32; 2],
    /// What it makes.
    pub(in super::super) outputs: Vec<Output>,
    /// What follows the pointers.
    pub(in super::super) numbers: Vec<Number>,
}

/// A buffer that a kernel fills.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Output {
    /// How many values.
    pub(in super::super) len: usize,
    /// Whether they are float32 whatever the kernel's type.
    pub(in super::super) is_single: bool,
}

impl Output {
    fn own(len: usize) -> Output {
        Output { len, is_single: false }
    }

    fn single(len: usize) -> Output {
        Output { len, is_single: true }
    }
}

/// A kernel's argument.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Number {
    /// C's `int`.
    Int(i32),
    /// C's `long long`.
    Long(i64),
    /// C's `float`.
    Float(f32),
}

/// What runs kernels of one type.
pub(in super::super) trait Machine {
    /// Values in its memory, contiguous.
    type Buffer;

    /// How many bytes a number of the type has.
    fn value_bytes(&self) -> usize;

    /// Runs a kernel and gives its outputs back.
    ///
    /// # Errors
    /// When the device fails.
    fn run(&self, launch: Launch, inputs: &[&Self::Buffer]) -> Result<Vec<Self::Buffer>>;

    /// As [`run`](Self::run), for a kernel of one output.
    ///
    /// # Errors
    /// Those of [`run`](Self::run).
    fn run_one(&self, launch: Launch, inputs: &[&Self::Buffer]) -> Result<Self::Buffer> {
        let kernel = launch.kernel;
        match self.run(launch, inputs)?.pop() {
            Some(output) => Ok(output),
            None => candle_core::bail!("the kernel `{kernel}` has no output"),
        }
    }
}

/// Rows of one width.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Rows {
    /// How many rows.
    pub(in super::super) count: usize,
    /// Values of each.
    pub(in super::super) width: usize,
}

impl Rows {
    /// Rows of `width` values that make up `len`.
    pub(in super::super) fn of(len: usize, width: usize) -> Rows {
        Rows { count: len / width.max(1), width }
    }

    /// A launch in which each row has threads of its own; `numbers` follow those of the rows.
    fn launch(self, kernel: &'static str, outputs: Vec<Output>, numbers: &[Number]) -> Result<Launch> {
        // A block of warps with a row each, or of all threads for one row.
        let block = if self.width <= WARP_WIDTH { [WARP, THREADS / WARP] } else { [THREADS, 1] };
        let grid = [blocks(self.count, block[1] as usize)?, 1];
        let numbers = [&[int(self.count)?, int(self.width)?], numbers].concat();
        Ok(Launch { kernel, grid, block, outputs, numbers })
    }

    fn len(self) -> usize {
        self.count * self.width
    }
}

/// Which norm, with the epsilon in its root.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum NormKind {
    Rms(f32),
    Layer(f32),
}

/// y of x (rows) and its parameters: the weight, and for a layer norm the bias.
pub(in super::super) fn norm<M: Machine>(
    machine: &M,
    kind: NormKind,
    rows: Rows,
    x: &M::Buffer,
    parameters: &[&M::Buffer],
) -> Result<M::Buffer> {
    let (kernel, eps) = match kind {
        NormKind::Rms(eps) => ("rms_norm", eps),
        NormKind::Layer(eps) => ("layer_norm", eps),
    };
    let launch = rows.launch(kernel, vec![Output::own(rows.len())], &[Number::Float(eps)])?;
    let inputs: Vec<&M::Buffer> = std::iter::once(x).chain(parameters.iter().copied()).collect();
    machine.run_one(launch, &inputs)
}

/// Gradients of a norm: of x, and where they are `wanted` of weight and bias, one after the other, (2, width).
pub(in super::super) fn norm_gradients<M: Machine>(
    machine: &M,
    kind: NormKind,
    rows: Rows,
    [x, weight, by_y]: [&M::Buffer; 3],
    wanted: bool,
) -> Result<(M::Buffer, Option<M::Buffer>)> {
    let (kernel, eps) = match kind {
        NormKind::Rms(eps) => ("rms_norm_grad", eps),
        NormKind::Layer(eps) => ("layer_norm_grad", eps),
    };
    let outputs = vec![Output::own(rows.len()), Output::single(2 * rows.count)];
    let mut made = machine.run(rows.launch(kernel, outputs, &[Number::Float(eps)])?, &[x, weight, by_y])?;
    let (Some(moments), Some(by_x)) = (made.pop(), made.pop()) else {
        candle_core::bail!("the kernel `{kernel}` has two outputs")
    };
    if !wanted {
        return Ok((by_x, None));
    }
    let Rows { count, width } = rows;
    let chunks = count.div_ceil(CHUNK);
    let partial = Launch {
        kernel: "norm_weight_grad",
        grid: [blocks(width, THREADS as usize)?, blocks(count, CHUNK)?],
        block: [THREADS, 1],
        outputs: vec![Output::single(chunks * 2 * width)],
        numbers: vec![int(count)?, int(width)?, int(CHUNK)?],
    };
    let partial = machine.run_one(partial, &[x, by_y, &moments])?;
    let sum = Launch {
        kernel: "sum_chunks",
        grid: [blocks(2 * width, THREADS as usize)?, 1],
        block: [THREADS, 1],
        outputs: vec![Output::own(2 * width)],
        numbers: vec![int(chunks)?, int(width)?],
    };
    Ok((by_x, Some(machine.run_one(sum, &[&partial])?)))
}

/// Weights of `scores` (rows) times `scale`: row r is of query r % `queries`, which sees the columns that `sights`
/// (queries, 2), unsigned, says; the others get 0.
pub(in super::super) fn softmax<M: Machine>(
    machine: &M,
    rows: Rows,
    queries: usize,
    scale: f32,
    [scores, sights]: [&M::Buffer; 2],
) -> Result<M::Buffer> {
    let numbers = [int(queries)?, Number::Float(scale)];
    let launch = rows.launch("softmax", vec![Output::own(rows.len())], &numbers)?;
    machine.run_one(launch, &[scores, sights])
}

/// Gradient of the scores, from weights and their gradient.
pub(in super::super) fn softmax_gradient<M: Machine>(
    machine: &M,
    rows: Rows,
    scale: f32,
    [weights, by_weights]: [&M::Buffer; 2],
) -> Result<M::Buffer> {
    let launch = rows.launch("softmax_grad", vec![Output::own(rows.len())], &[Number::Float(scale)])?;
    machine.run_one(launch, &[weights, by_weights])
}

/// x (tokens, heads, 2 half) rotated by cosines and sines (tokens, half); `sign` -1 turns back.
pub(in super::super) fn rope<M: Machine>(
    machine: &M,
    [tokens, heads, half]: [usize; 3],
    sign: f32,
    [x, cos, sin]: [&M::Buffer; 3],
) -> Result<M::Buffer> {
    let pairs = tokens * heads * half;
    let launch = Launch {
        kernel: "rope",
        grid: [blocks(pairs, THREADS as usize * ACCESS / machine.value_bytes())?, 1],
        block: [THREADS, 1],
        outputs: vec![Output::own(2 * pairs)],
        numbers: vec![int(tokens)?, int(heads)?, int(half)?, Number::Float(sign)],
    };
    machine.run_one(launch, &[x, cos, sin])
}

/// A kernel that makes `outputs` of as many values each of inputs of `len` values.
pub(in super::super) fn pointwise<M: Machine>(
    machine: &M,
    kernel: &'static str,
    len: usize,
    outputs: usize,
    inputs: &[&M::Buffer],
) -> Result<Vec<M::Buffer>> {
    let launch = Launch {
        kernel,
        grid: [blocks(len, THREADS as usize * ACCESS / machine.value_bytes())?, 1],
        block: [THREADS, 1],
        outputs: vec![Output::own(len); outputs],
        numbers: vec![Number::Long(len as i64)],
    };
    machine.run(launch, inputs)
}

/// x of `len` values plus a bias on each row of `width`.
pub(in super::super) fn add_bias<M: Machine>(
    machine: &M,
    [len, width]: [usize; 2],
    [x, bias]: [&M::Buffer; 2],
) -> Result<M::Buffer> {
    let launch = Launch {
        kernel: "add_bias",
        grid: [blocks(len, THREADS as usize * ACCESS / machine.value_bytes())?, 1],
        block: [THREADS, 1],
        outputs: vec![Output::own(len)],
        numbers: vec![Number::Long(len as i64), int(width)?],
    };
    machine.run_one(launch, &[x, bias])
}

/// Weights and both moments, of `len` float32 values each, after an update: from weights, gradients and moments.
pub(in super::super) fn adamw<M: Machine>(
    machine: &M,
    len: usize,
    constants: AdamWConstants,
    inputs: [&M::Buffer; 4],
) -> Result<Vec<M::Buffer>> {
    let AdamWConstants { beta1, beta2, epsilon, root_correction, rate, decay, scale } = constants;
    let constants = [beta1, beta2, epsilon, root_correction, rate, decay, scale].map(Number::Float);
    let launch = Launch {
        kernel: "adamw",
        grid: [blocks(len, THREADS as usize * ACCESS / machine.value_bytes())?, 1],
        block: [THREADS, 1],
        outputs: vec![Output::own(len); 3],
        numbers: [&[Number::Long(len as i64)], &constants[..]].concat(),
    };
    machine.run(launch, &inputs)
}

/// How many blocks of `size` hold `count`.
fn blocks(count: usize, size: usize) -> Result<u32> {
    match u32::try_from(count.div_ceil(size)) {
        // A launch of no block is an error of the driver.
        Ok(blocks) => Ok(blocks.max(1)),
        Err(_) => candle_core::bail!("{count} rows or values are too many for one kernel"),
    }
}

fn int(number: usize) -> Result<Number> {
    match i32::try_from(number) {
        Ok(number) => Ok(Number::Int(number)),
        Err(_) => candle_core::bail!("{number} is too large for a kernel"),
    }
}
