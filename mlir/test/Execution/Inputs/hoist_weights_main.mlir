func.func private @printMemrefF32(tensor<*xf32>)

func.func @main() {
  %v = arith.constant dense<[[1.0, 2.0], [2.0, 3.0]]> : tensor<2x2xf32>
  %d = call @steered.init(%v) : (tensor<2x2xf32>) -> tensor<2xf32>
  %x = arith.constant dense<[[0.0, 1.0], [1.0, 2.0]]> : tensor<2x2xf32>
  %rows = tensor.cast %x : tensor<2x2xf32> to tensor<?x2xf32>
  %y = call @steered(%rows, %v, %d) : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %t = tensor.cast %y : tensor<?x2xf32> to tensor<*xf32>
  call @printMemrefF32(%t) : (tensor<*xf32>) -> ()
  %first = tensor.extract_slice %x[0, 0] [1, 2] [1, 1] : tensor<2x2xf32> to tensor<1x2xf32>
  %row = tensor.cast %first : tensor<1x2xf32> to tensor<?x2xf32>
  %z = call @steered(%row, %v, %d) : (tensor<?x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<?x2xf32>
  %u = tensor.cast %z : tensor<?x2xf32> to tensor<*xf32>
  call @printMemrefF32(%u) : (tensor<*xf32>) -> ()
  return
}
